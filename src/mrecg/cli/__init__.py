"""The command line: parse, call one library function, show progress, return an exit code."""

from mrecg.cli.consoles import app
from mrecg.cli.entry import main

__all__ = ["app", "main"]
