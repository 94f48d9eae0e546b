"""Frozen values that are read from JSON and written as JSON."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mrecg.config.yaml_files import first_problem
from mrecg.errors import RunError, expect

__all__ = ["JsonModel", "require_new_file"]


def require_new_file(path: Path) -> None:
    """Refuse a file that exists or whose folder cannot be made; ask before the work, not after.

    Raises:
        RunError: naming it.
    """
    if path.exists() or path.is_symlink():
        raise RunError(f"The file {path} already exists; name another or remove it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The file {path} cannot be written: {error.strerror}.") from error


class JsonModel(BaseModel):
    """Frozen, refuses unknown keys, reads and writes JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """The value as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def write(self, path: str | Path) -> None:
        """Write a new JSON file.

        Raises:
            RunError: it exists, or cannot be written.
        """
        require_new_file(Path(path))
        try:
            Path(path).write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise RunError(f"The file {path} cannot be written: {error.strerror}.") from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The value in a JSON file.

        Raises:
            RunError: the file cannot be read or is not of this kind.
        """
        expect(path, (str, Path), "What is read", "name a JSON file", RunError)
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(f"The file {path} cannot be read: {error.strerror}.") from error
        except (UnicodeDecodeError, ValidationError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else (str(error),)
            reason = ": ".join(filter(None, problem))
            raise RunError(f"The file {path} is no {cls.__name__.lower()}: {reason}.") from error
