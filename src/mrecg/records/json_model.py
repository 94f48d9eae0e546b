"""Frozen values that are read from JSON and written as JSON."""

import re
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
    """Base of frozen values that refuse unknown keys, read and write JSON."""

    # A loss may be infinite; as null it could not be read again.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_json(self) -> str:
        """Return the value as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def given_as_json(self) -> str:
        """Return as indented JSON the fields that were given: of a value that was read, those of its file and no later version's."""
        return self.model_dump_json(indent=2, exclude_unset=True) + "\n"

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
        """Return the value in a JSON file.

        Raises:
            RunError: the file cannot be read or is not of this kind.
        """
        expect(path, (str, Path), "What is read", "name a JSON file", RunError)
        try:
            return cls.parse(Path(path).read_bytes(), path)
        except OSError as error:
            raise RunError(f"The file {path} cannot be read: {error.strerror}.") from error

    @classmethod
    def parse(cls, text: bytes, path: str | Path) -> Self:
        """Return the value in the contents of a JSON file.

        Raises:
            RunError: they are not of this kind; the message names `path`.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            reason = ": ".join(filter(None, first_problem(error)))
            kind = re.sub(r"\B(?=[A-Z])", " ", cls.__name__).lower()
            raise RunError(f"The file {path} is no {kind}: {reason}.") from error
