"""What `import mrecg` offers."""

import inspect
import rlcompleter
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils.data import DataLoader, TensorDataset

import mrecg
import mrecg.pipeline
import toys
from mrecg.planning.budget import fit_budget


def test_completion_offers_every_door() -> None:
    """Those that need torch, too, which are imported when they are first used."""
    assert set(mrecg.__all__) <= set(dir(mrecg))
    code = "import mrecg; assert {'quantize', 'verify_onnx'} <= set(dir(mrecg))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tab_completion_offers_every_door() -> None:
    """That of Python's prompt, and that of IPython and notebooks where it is installed."""
    names = set(mrecg.__all__)
    completer = rlcompleter.Completer({"mrecg": mrecg})
    offered = {one.rstrip("(").removeprefix("mrecg.") for one in completer.attr_matches("mrecg.")}
    assert names <= offered
    core = pytest.importorskip("IPython.core.completer")
    found = core.IPCompleter(namespace={"mrecg": mrecg}, use_jedi=False).all_completions("mrecg.")
    assert names <= {one.rpartition(".")[2] for one in found}


def test_a_model_and_a_loader_are_enough() -> None:
    """The recipe is the default one, a name, or a file; memory is bytes or a size."""
    model, loader = toys.make("chain"), DataLoader(TensorDataset(toys.images(16)), batch_size=8)
    for function in (mrecg.quantize, mrecg.prepare):
        assert inspect.signature(function).parameters["recipe"].default == "w4a4-qdrop-mrecg"
    mrecg.prepare(model, loader, memory="2GiB")
    named = mrecg.quantize(model, loader, recipe="w4a4-rtn", memory="2GiB")
    # With numbers in the place of the budget that the size of the images decides.
    assert named.recipe == fit_budget(mrecg.preset("w4a4-rtn"), 8 * 8)


def test_type_checkers_read_the_annotations() -> None:
    """PEP 561: without the marker, an installed package counts as untyped."""
    assert Path(mrecg.__file__).with_name("py.typed").is_file()


def test_no_room_hides_a_door() -> None:
    """A package that is imported becomes an attribute of the package around it, and would take the name of a function."""
    for name in mrecg.__all__:
        for _ in range(2):
            assert not isinstance(getattr(mrecg, name), ModuleType), name
