"""The fenced blocks of the documents, and what each kind promises.

python                  runs, in the order of the page, with the names of the blocks before
bash                    runs, in the same folder
console                 needs what a test has not (ImageNet, a GPU, a network): its commands and options exist
any, with title="FILE"  is that file, for the blocks that follow
others                  are shown; a line that calls `mrecg` or `make` is held to what `console` promises

`python tests/code_blocks.py PAGE` prints a shell script that runs a page.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent


class Block(NamedTuple):
    """A block of code in a document.

    Attributes:
        line: where its text starts, from 0.
        language: as it is written behind the fence; empty for an indented block.
        file: what its title names.
        text: without the fence.
    """

    line: int
    language: str
    file: str | None
    text: str


def pages() -> list[Path]:
    """Return every document that shows code."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    found = []
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block") and token.map is not None:
            language, _, attributes = token.info.partition(" ")
            titled = re.search(r'title="([^"]+)"', attributes)
            fenced = token.type == "fence"
            file = titled[1] if titled else None
            found.append(Block(token.map[0] + fenced, language, file, token.content))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a block as words: all lines of `bash`, what has a prompt in `console`, what starts as one elsewhere.

    Of a pipe only the first command counts.
    """
    marks = {"bash": "", "console": "$ "}
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language in marks:
            found = line.startswith(marks[block.language])
            line = line.removeprefix(marks[block.language])
        else:
            found = line.split(" ")[0] in ("make", "mrecg")
        words = shlex.split(line, comments=True) if found else []
        if words:
            yield words[: words.index("|")] if "|" in words else words


def script(page: Path) -> str:
    """Return the page as a shell script that stops at the first error."""
    parts = ["set -euo pipefail"]
    for block in blocks(page):
        if block.file is not None:
            parts.append(f"mkdir -p $(dirname {block.file})\ncat > {block.file} <<'END'")
            parts.append(f"{block.text}END")
        elif block.language == "bash":
            parts.append(block.text)
    python = "".join(block.text for block in blocks(page) if _is_run(block))
    return "\n".join([*parts, f"python - <<'END'\n{python}END", ""])


def _is_run(block: Block) -> bool:
    return block.language == "python" and block.file is None


if __name__ == "__main__":
    print(script(Path(sys.argv[1])))
