"""Base of the sections of a recipe: a frozen model, and bounds of their numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LARGEST", "MOST", "SMALLEST", "Pattern", "Settings"]

MOST, LARGEST, SMALLEST = 100_000_000, 1e6, 1e-6
"""Far beyond what makes sense; without bounds, numbers that a file holds by mistake run out of floats, memory or days."""
Pattern = Annotated[str, Field(max_length=1000)]
"""A shell pattern, or a name."""


class Settings(BaseModel):
    """A section: frozen, and a key that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
