"""The rooms: imports point up the list only, the light ones stay light, the public names are sorted."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mrecg

SOURCE = Path(mrecg.__file__).parent
ROOMS = [
    "errors",
    "distributed",
    "torch_state",
    "config",
    "records",
    "quantizers",
    "graph",
    "preparation",
    "planning",
    "cache",
    "optimize",
    "runs",
    "export",
    "pipeline",
    "evaluation",
    "data",
    "paper",
    "demo",
    "cli",
]
ALLOWED_PACKAGES = {
    "datasets",
    "jaxtyping",
    "ml_dtypes",
    "mrecg",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "PIL",
    "pydantic",
    "rich",
    "safetensors",
    "torch",
    "torchao",
    "torchvision",
    "typer",
    "yaml",
}
STRANGERS = {("graph", "quantization"), ("quantization", "graph")}
"""Rooms that meet in `prepare` and must not know each other."""


def modules() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
            if node.module == "mrecg":
                found |= {f"mrecg.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_up_the_list(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "mrecg" or len(parts) == 1:
            continue
        assert parts[1] in ROOMS, f"{path} imports the unlisted room {parts[1]}"
        assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {name}"
        assert (room, parts[1]) not in STRANGERS, f"{path} imports {name}"


def test_only_declared_packages_are_imported() -> None:
    used = {name.split(".")[0] for path in modules() for name in imports_of(path)}
    assert used - set(sys.stdlib_module_names) <= ALLOWED_PACKAGES


def test_help_and_recipes_do_not_load_torch() -> None:
    code = (
        "import sys, mrecg, mrecg.cli; mrecg.preset('w4a4-brecq'); "
        "assert not {'torch', 'torchao', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_sorted_and_exist() -> None:
    assert mrecg.__all__ == sorted(mrecg.__all__)
    assert all(getattr(mrecg, name) is not None for name in mrecg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        mrecg.quantise  # noqa: B018


def test_no_module_reads_the_global_generator() -> None:
    """Randomness comes from the recipe's seed."""
    for path in modules():
        assert "manual_seed(" not in path.read_text(encoding="utf-8").replace(
            "Generator().manual_seed(", ""
        )
