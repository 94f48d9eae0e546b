"""Frozen values that are read from JSON and written as JSON."""

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mrecg.config.yaml_files import first_problem
from mrecg.errors import RunError, expect, reason_of
from mrecg.reading import read_regular
from mrecg.writing import require_new_file, write_file

__all__ = ["JsonModel"]


class JsonModel(BaseModel):
    """Base of frozen values that refuse unknown keys, read and write JSON."""

    # A loss may be infinite; as null it could not be read again.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_json(self) -> str:
        """Return the value as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def to_given_json(self) -> str:
        """Return the same without what was not given when the value was made, such as what an older file does not hold."""
        return self.model_dump_json(indent=2, exclude_unset=True) + "\n"

    def write(self, path: str | Path) -> None:
        """Write a new JSON file.

        Raises:
            RunError: it exists, or cannot be written.
        """
        require_new_file(Path(path))
        write_file(Path(path), self.to_json().encode(errors="replace"), RunError)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the value in a JSON file.

        Raises:
            RunError: the file cannot be read or is not of this kind.
        """
        expect(path, (str, Path), "What is read", "name a JSON file", RunError)
        try:
            return cls.parse(read_regular(Path(path)), path)
        except (OSError, ValueError) as error:
            raise RunError(f"The file {path} cannot be read: {reason_of(error)}.") from error

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
