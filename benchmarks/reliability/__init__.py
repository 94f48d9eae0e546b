"""The long forms of tests about reliability: their disks that fail, mutators and toys are those of the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))
