"""What `import mrecg` offers."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mrecg
import mrecg.pipeline


def test_completion_offers_every_door() -> None:
    """Those that need torch, too, which are imported when they are first used."""
    assert set(mrecg.__all__) <= set(dir(mrecg))
    code = "import mrecg; assert {'quantize', 'verify_onnx'} <= set(dir(mrecg))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_read_the_annotations() -> None:
    """PEP 561: without the marker, an installed package counts as untyped."""
    assert Path(mrecg.__file__).with_name("py.typed").is_file()


def test_no_room_hides_a_door() -> None:
    """A package that is imported becomes an attribute of the package around it, and would take the name of a function."""
    for name in mrecg.__all__:
        for _ in range(2):
            assert not isinstance(getattr(mrecg, name), ModuleType), name
