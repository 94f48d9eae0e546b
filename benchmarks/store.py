"""Results of a benchmark: one sorted JSONL file, in which recipes and environments are named by their hash."""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "Result", "Store", "content_hash"]

Result = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
SHARED = {"recipe": "recipes.jsonl", "environment": "environments.jsonl"}
"""Fields of a result that many results have in common, and the files that hold each of their values once."""
HASH_DIGITS = 12


@dataclass(frozen=True)
class Store:
    """Keep the results of one benchmark, sorted by key; several processes may add to them at the same time.

    Stored recipes are data: they keep the names that the settings had when a result was measured.

    Attributes:
        benchmark: name of the file.
        key: fields that tell one result from another.
        folder: of the files of all benchmarks.
    """

    benchmark: str
    key: tuple[str, ...]
    folder: Path = RESULTS

    @property
    def path(self) -> Path:
        """Return the file of the results."""
        return self.folder / f"{self.benchmark}.jsonl"

    def read(self) -> list[Result]:
        """Return all results by key, their recipes and environments in full; none where there is no file."""
        if not self.path.exists():
            return []
        with _locked(self.folder):
            known = {field: _table(self.folder / file) for field, file in SHARED.items()}
            return [_in_full(row, known) for row in _rows(self.path)]

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        """Return whether there is a result with the cell's key."""
        return any(self._key(row) == self._key(cell) for row in _rows(self.path))

    def add(self, result: Mapping[str, Any]) -> None:
        """Store a result in the place of one with the same key, if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            row = dict(result)
            for field, file in SHARED.items():
                if field in result:
                    row[field] = _intern(self.folder / file, field, result[field])
            rows = {self._key(one): one for one in (*_rows(self.path), row)}
            _write(self.path, (rows[key] for key in sorted(rows)))
            self._drop_unused()

    def _key(self, row: Mapping[str, Any]) -> tuple[tuple[bool, Any], ...]:
        values = (row.get(field) for field in self.key)
        return tuple((value is not None, value) for value in values)

    def _drop_unused(self) -> None:
        """Drop recipes and environments that no result of any benchmark names any more."""
        results = [path for path in self.folder.glob("*.jsonl") if path.name not in SHARED.values()]
        rows = [row for path in results for row in _rows(path)]
        for field, file in SHARED.items():
            named, table = {row.get(field) for row in rows}, _rows(self.folder / file)
            used = [entry for entry in table if entry["hash"] in named]
            if len(used) < len(table):
                _write(self.folder / file, used)


def content_hash(value: Any) -> str:
    """Return the name of a recipe or an environment: the start of the SHA-256 of its JSON, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process reads or writes results in a folder."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _rows(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file as a whole, so that nobody ever reads half of it."""
    scratch = path.with_suffix(".scratch")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    scratch.write_text("".join(lines), encoding="utf-8")
    scratch.replace(path)


def _table(path: Path) -> dict[str, Any]:
    """Return what the hashes of a shared file stand for."""
    entries = [dict(row) for row in _rows(path)]
    return {entry.pop("hash"): next(iter(entry.values())) for entry in entries}


def _intern(path: Path, field: str, value: Any) -> str:
    """Return the hash of a value, which is in the shared file afterwards."""
    name = content_hash(value)
    rows = {row["hash"]: row for row in _rows(path)}
    if name not in rows:
        rows[name] = {"hash": name, field: value}
        _write(path, (rows[key] for key in sorted(rows)))
    return name


def _in_full(row: Result, known: Mapping[str, Mapping[str, Any]]) -> Result:
    return row | {field: table[row[field]] for field, table in known.items() if field in row}
