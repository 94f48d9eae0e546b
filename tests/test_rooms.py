"""The rooms: imports point up the list only, names are clear and used once, and nothing draws from global generators."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import mrecg

SOURCE = Path(mrecg.__file__).parent
ROOMS = [
    "errors",
    "collection",
    "distributed",
    "freed_memory",
    "torch_state",
    "reading",
    "writing",
    "config",
    "shortage",
    "records",
    "quantizers",
    "graph",
    "preparation",
    "planning",
    "cache",
    "optimize",
    "report",
    "monitoring",
    "runs",
    "export",
    "conversion",
    "pipeline",
    "quantization",
    "metrics",
    "evaluation",
    "mixed_precision",
    "data",
    "paper",
    "demo",
    "sweep",
    "cli",
    "__main__",
]
ALLOWED_PACKAGES = {
    "datasets",
    "filelock",
    "jaxtyping",
    "jinja2",
    "matplotlib",
    "ml_dtypes",
    "mrecg",
    "numpy",
    "onnx",
    "onnx2fx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pandas",
    "PIL",
    "pydantic",
    "pydantic_core",  # the errors of pydantic
    "rich",
    "safetensors",
    "scipy",
    "torch",
    "torchao",
    "torchvision",
    "triton",  # of torch's builds for CUDA
    "typer",
    "yaml",
}
STRANGERS = {("graph", "quantizers"), ("quantizers", "graph")}
"""Rooms that meet in `prepare` and must not know each other."""
KNOW_THE_PAPER = {"paper", "demo", "cli"}
VAGUE = {"base", "common", "helper", "helpers", "misc", "util", "utils"}


def modules() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]


def label(path: Path) -> str:
    return str(path.relative_to(SOURCE))


EVERY_MODULE = pytest.mark.parametrize("path", modules(), ids=label)


def dotted(path: Path) -> str:
    parts = ["mrecg", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(part for part in parts if part != "__init__")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
            if node.module == "mrecg":
                found |= {f"mrecg.{alias.name}" for alias in node.names}
    return found


def public_names(tree: ast.Module) -> list[str]:
    """The entries of `__all__`; a module without it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def own_names(tree: ast.Module) -> set[str]:
    """The public names that a module does not import from elsewhere in the package."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return set(public_names(tree)) - imported


@EVERY_MODULE
def test_imports_point_up_the_list(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "mrecg" or len(parts) == 1:
            continue
        assert parts[1] in ROOMS, f"{path} imports the unlisted room {parts[1]}"
        assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {name}"
        assert (room, parts[1]) not in STRANGERS, f"{path} imports {name}"
        assert parts[1] != "paper" or room in KNOW_THE_PAPER, f"{path} imports {name}"


def test_every_room_is_listed() -> None:
    """A room that is renamed or added would make the checks above pass for nothing."""
    assert {room_of(path) for path in modules()} == set(ROOMS)
    assert {room for pair in STRANGERS for room in pair} <= set(ROOMS)


def test_only_declared_packages_are_imported() -> None:
    used = {name.split(".")[0] for path in modules() for name in imports_of(path)}
    assert used - set(sys.stdlib_module_names) <= ALLOWED_PACKAGES


def test_help_and_recipes_do_not_load_torch() -> None:
    code = (
        "import sys, mrecg, mrecg.cli; mrecg.preset('w4a4-brecq'); "
        "assert not {'torch', 'torchao', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist() -> None:
    assert all(getattr(mrecg, name) is not None for name in mrecg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        mrecg.quantise  # noqa: B018


NEEDS_TRITON = {"triton_kernels"} if find_spec("triton") is None else set()
IMPORTABLE = [path for path in SOURCE.rglob("*.py") if path.stem not in {"__main__", *NEEDS_TRITON}]


@pytest.mark.parametrize("path", IMPORTABLE, ids=label)
def test_lists_of_public_names_are_sorted_and_true(path: Path) -> None:
    """In the linter's order: constants, classes, functions."""
    names = public_names(tree_of(path))
    assert names == sorted(
        names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert len(set(names)) == len(names)
    module = import_module(dotted(path))
    assert all(hasattr(module, name) for name in names)


@EVERY_MODULE
def test_modules_say_what_is_in_them(path: Path) -> None:
    assert not set(path.relative_to(SOURCE).with_suffix("").parts) & VAGUE


def test_no_module_and_function_of_one_name() -> None:
    """Imported into one namespace, the later one would hide the other."""
    offenders = []
    for room in ROOMS:
        paths = [path for path in modules() if room_of(path) == room]
        stems = {part for path in paths for part in path.relative_to(SOURCE).with_suffix("").parts}
        for path in paths:
            tops = {
                node.name
                for node in tree_of(path).body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            offenders += [f"{label(path)}: {name}" for name in tops & stems]
    assert not offenders


def test_public_names_are_used_once() -> None:
    """But a command takes the name of the function that it calls, and kernels exist in C and in torch's operators."""
    owners: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        if path.parent.name not in ("commands", "kernels"):
            for name in own_names(tree_of(path)):
                owners[name].append(label(path))
    assert not {name: paths for name, paths in owners.items() if len(paths) > 1}


@EVERY_MODULE
def test_docstrings_open_with_the_term_and_those_of_functions_with_a_verb(path: Path) -> None:
    """ "What …" hides the field's term; an article or "Whether" is no verb."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = (ast.get_docstring(node) or "-").split()[0]
            no_verb = {"A", "An", "The", "Two", "Whether", "Of", "How", "Where"}
            if first == "What" or (isinstance(node, ast.FunctionDef) and first in no_verb):
                found.append(getattr(node, "name", "the module"))
    assert not found


DRAWS = {"bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm"}
IN_PLACE_DRAWS = {"bernoulli_", "exponential_", "normal_", "random_", "uniform_"}
OWN_GENERATORS = {"Generator", "Random", "RandomState", "SystemRandom", "default_rng"}


def global_draws(tree: ast.AST) -> Iterator[str]:
    """Calls that seed or advance the generators of torch, numpy or `random` that belong to the process."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        owner, _, name = function.rpartition(".")
        with_generator = any(keyword.arg == "generator" for keyword in node.keywords)
        seeds = owner in ("torch", "torch.random", "torch.cuda") and "seed" in name
        library = owner in ("random", "np.random", "numpy.random") and name not in OWN_GENERATORS
        draws = owner == "torch" and name.removesuffix("_like") in DRAWS and not with_generator
        in_place = name in IN_PLACE_DRAWS and "init" not in owner and not with_generator
        if seeds or library or draws or in_place:
            yield function


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("torch.manual_seed(0)", 1),
        ("torch.cuda.manual_seed_all(0)", 1),
        ("random.shuffle(x)", 1),
        ("np.random.seed(0)", 1),
        ("torch.randperm(3)", 1),
        ("torch.rand_like(x)", 1),
        ("x.normal_()", 1),
        ("torch.randperm(3, generator=torch.Generator().manual_seed(1))", 0),
        ("random.Random(1).shuffle(x)", 0),
        ("np.random.default_rng(1).permutation(3)", 0),
        ("x.normal_(generator=g)", 0),
    ],
)
def test_the_search_for_draws_finds_them(code: str, count: int) -> None:
    assert len(list(global_draws(ast.parse(code)))) == count


@EVERY_MODULE
def test_no_module_draws_from_global_generators(path: Path) -> None:
    """Randomness comes from the recipe's seed; networks with random weights are made by torch's own modules."""
    assert list(global_draws(tree_of(path))) == []
