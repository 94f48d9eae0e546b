"""`python -m mrecg.cli` is `mrecg`."""

from mrecg.cli import main

main()
