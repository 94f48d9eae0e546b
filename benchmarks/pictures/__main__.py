"""Draw the pictures of docs/method.md from the code and from stored results.

python -m benchmarks.pictures render
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import Command, rendering, run_command
from benchmarks.pictures.draw import draw_joining, draw_rounding


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run_command(__doc__, (_render(),), given)


def _render() -> Command:
    """Return the command that draws every picture."""

    def write(results: Path, folder: Path) -> int:
        folder.mkdir(exist_ok=True)
        draw_rounding(folder / "rounding.svg")
        return draw_joining(results, folder / "joining.svg")

    return rendering("pictures", write)


if __name__ == "__main__":
    main()
