"""`python -m mrecg.cli` is `mrecg`."""

from mrecg.cli.entry import main

main()
