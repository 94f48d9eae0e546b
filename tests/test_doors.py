"""What `import mrecg` offers."""

from types import ModuleType

import mrecg
import mrecg.pipeline


def test_no_room_hides_a_door() -> None:
    """A package that is imported becomes an attribute of the package around it, and would take the name of a function."""
    for name in mrecg.__all__:
        for _ in range(2):
            assert not isinstance(getattr(mrecg, name), ModuleType), name
