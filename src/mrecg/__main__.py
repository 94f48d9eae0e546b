"""`python -m mrecg` is `mrecg`."""

from mrecg.cli import main

main()
