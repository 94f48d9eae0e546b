"""Screens of a terminal as text, and the recorded ones that they are compared with.

`MRECG_RECORD_SCREENS=1 pytest tests/cli/test_screens.py` writes the recorded screens anew; read the difference before it is committed.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pyte

RECORDED = Path(__file__).parent / "cli" / "screens"
COLORS = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")
_HEIGHT = 100


def shown(output: str, columns: int) -> list[str]:
    """What a terminal shows after some output, cursor movements included."""
    screen = pyte.Screen(columns, _HEIGHT)
    pyte.Stream(screen).feed(re.sub(r"\r?\n", "\r\n", output))
    return _lines(screen.display)


def run_in_terminal(
    arguments: Sequence[str], columns: int, folder: Path, **environment: str
) -> tuple[int, str]:
    """The exit code and the output of `mrecg` in a process whose standard streams are a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _HEIGHT, columns, 0, 0))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "GITHUB_ACTIONS")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mrecg", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    parts = []
    while part := _read(ours):
        parts.append(part)
    os.close(ours)
    return process.wait(), b"".join(parts).decode()


def compare(name: str, lines: Sequence[str]) -> None:
    """Compare a screen with the recorded one."""
    path = RECORDED / f"{name}.txt"
    found = "\n".join(lines) + "\n"
    if os.environ.get("MRECG_RECORD_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def masked(line: str) -> str:
    """A line without what differs from run to run: numbers, their units, the length of bars and of gaps."""
    line = re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", line)
    line = re.sub(r"# seconds?\b", "# seconds", line)
    line = re.sub(r"# (KiB|MiB|GiB|bytes)\b", "# bytes", line)
    line = re.sub(r"[━╸╺]+", "━━━", line)
    return re.sub(r"(?<=\S)  +", "  ", line)


def _lines(display: Sequence[str]) -> list[str]:
    lines = [line.rstrip() for line in display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how Linux says that the other side is closed
        return b""
