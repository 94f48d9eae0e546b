"""Networks of many shapes as JSON and back: equal outputs, names, structure of the results."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

import mrecg
import run_folders
import toys
from mrecg.errors import CaptureError, RunError
from mrecg.graph.capture import capture_graph
from mrecg.graph.layers import module_path
from mrecg.runs import bounds, files
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.graph_writer import require_storable

Pair = namedtuple("Pair", "first second")


class Answers(nn.Module):
    """Returns what it is told to make of its two results."""

    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.stem, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)
        self.register_buffer("factor", torch.rand(4, 1, 1), persistent=False)
        self.offset = torch.rand(3, 1, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.head(self.stem(x).relu() * self.factor) + self.offset
        return self.make(x, x.mean((2, 3)))


class Wrapped(nn.Module):
    """Computes its middle under a mode."""

    def __init__(self, mode: Callable[[], Any]) -> None:
        super().__init__()
        self.mode = mode
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with self.mode():
            x = self.b(x.relu())
        return self.c(x.float().relu())


def quantize(model: nn.Module) -> QuantizedModel:
    return mrecg.quantize(model.eval(), toys.images(16), recipe=mrecg.preset("w4a4-rtn"))


def assert_equal_after_loading(quantized: QuantizedModel, folder: Path) -> QuantizedModel:
    loaded = mrecg.load(quantized.save(folder))
    x = toys.images(5)
    (expected, structure), (found, again) = (
        tree_flatten(one.model(x)) for one in (quantized, loaded)
    )
    assert structure == again
    for left, right in zip(expected, found, strict=True):
        assert torch.equal(left, right) if isinstance(left, Tensor) else left == right
    return loaded


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: {"logits": y, "maps": [x, (y + 1, x)]},
        lambda x, y: OrderedDict(out=y, aux=x),
        lambda x, y: {(1, "a"): y, 3: x},
        lambda x, y: (y, None),
        lambda x, y: (y, y, 3, 1.5, True, "name"),
        lambda x, y: {("disp", 0): y, "sizes": x.shape[2:]},
        lambda x, y: [[y], (), {"mean": y.mean(), "positive": y > 0}],
        lambda x, y: y.masked_fill(y < 0, float("-inf")),
        lambda x, y: y + torch.arange(3, dtype=y.dtype),
        lambda x, y: x.reshape(x.shape[0] * 3, -1).reshape(x.shape[0], -1),
        lambda x, y: x.split(x.shape[0] // 1, 0)[0].double().to(torch.float32),
    ],
)
def test_results_of_every_shape(make: Callable[[Tensor, Tensor], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_equal_after_loading(quantize(Answers(make)), tmp_path / "run")


def test_named_tuples_keep_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized, x = quantize(Answers(lambda x, y: {"both": Pair(y, [x])})), toys.images(5)
    loaded = mrecg.load(quantized.save(tmp_path / "run"))
    assert isinstance(quantized.model(x)["both"], Pair)
    found = loaded.model(x)["both"]
    assert type(found).__name__ == "Pair"
    assert torch.equal(found.first, quantized.model(x)["both"].first)
    again = mrecg.load(loaded.save(tmp_path / "again"))
    assert torch.equal(again.model(x)["both"].second[0], found.second[0])


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        lambda: torch.autocast("cpu", enabled=False),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_modes_inside_of_the_network(mode: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    require_storable(capture_graph(Wrapped(mode), toys.images(2)))
    assert_equal_after_loading(quantize(Wrapped(mode)), tmp_path / "run")


def test_operators_of_others_are_refused_early() -> None:
    graph = fx.Graph()
    images = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.bernoulli_.float, (images,)))
    with pytest.raises(RunError, match=r"aten\.bernoulli_\.float cannot be stored in a run"):
        require_storable(fx.GraphModule(nn.Module(), graph))
    require_storable(run_folders.quantized("vit").model)  # type: ignore[arg-type]


class Attends(nn.Module):
    """A network whose attention drops out even in evaluation, as the functional form does."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.stem, self.drop = nn.Conv2d(2, 4, 3), nn.Dropout2d(0.5)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.stem(x).relu())
        x = nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout)
        return self.head(x)


def test_random_networks_are_refused_before_the_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    require_storable(capture_graph(Attends(0.0), toys.images(2)))
    with pytest.raises(
        CaptureError, match=r"draws random numbers in evaluation: .*attention\.default"
    ):
        capture_graph(Attends(0.5), toys.images(2))
    assert_equal_after_loading(quantize(Attends(0.0)), tmp_path / "run")


@pytest.mark.parametrize("function", [torch.linalg.svdvals, lambda x: torch.special.bessel_j0(x)])
def test_unknown_operators_are_named_before_the_work(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    graph = capture_graph(Answers(lambda x, y: (y, function(x))), toys.images(2))
    with pytest.raises(
        RunError, match=r"^The operator aten\.\w+\.default cannot be stored in a run\.$"
    ):
        require_storable(graph)


def sum_of_sizes(x: Tensor, terms: int) -> Tensor:
    """Pad images by as many terms, each of which torch.export keeps."""
    size = x.shape[0]
    for _ in range(terms):
        size = size + x.shape[0]
    return x.new_zeros((size, 1))


BEYOND: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "terms": (lambda x, y: (y, sum_of_sizes(y, 40)), "from more than 32 others"),
    "elements": (lambda x, y: (y, y.new_zeros(1).expand(1 << 32)), "gives 4,294,967,296 elements"),
    "parts": (lambda x, y: (y, y.new_zeros(50, 1).unbind()[0]), "cuts an axis of 50"),
    "parts together": (
        lambda x, y: (y, y.new_zeros(30, 1).unbind()[0], y.new_ones(30, 1).unbind()[0]),
        "the operators before it cut axes into 60 parts",
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_nothing_is_written_that_could_not_be_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_MOST_PARTS", 40)
    make, message = BEYOND[name]
    torch.manual_seed(0)
    quantized = quantize(Answers(make))
    with pytest.raises(RunError, match=rf"^The model cannot be stored in a run: .*{message}"):
        quantized.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ("_MOST_NODES", "its graph has .* operators, expected at most 3"),
        ("_LARGEST", "its input is float32 of the shape"),
        ("_WIDEST", "holds codes from 0 to 255 as uint8"),
    ],
)
def test_the_writer_and_the_reader_share_their_bounds(
    bound: str, message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, bound, 3)
    with pytest.raises(RunError, match=message):
        run_folders.quantized().save(tmp_path / "again")
    with pytest.raises(RunError, match=message):
        mrecg.load(run)


def test_no_text_file_is_written_that_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LIMIT", 3)
    with pytest.raises(RunError, match=r"its recipe\.yaml would have .* bytes, expected at most 3"):
        run_folders.quantized().save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", toys.TOYS)
def test_every_toy_can_be_stored(name: str) -> None:
    require_storable(capture_graph(toys.make(name), toys.images(2)))


@pytest.mark.parametrize("toy", ["residual", "vit", "two-outputs", "windows"])
def test_names_and_order_are_kept(toy: str, tmp_path: Path) -> None:
    quantized = run_folders.quantized(toy)
    loaded = mrecg.load(quantized.save(tmp_path / "run"))
    before, after = quantized.program, loaded.program
    sizes = torch.ops.aten.sym_size.int
    for value in (
        lambda program: [
            node.name for node in program.graph.nodes if node.target is not sizes
        ],  # torch.export counts those itself
        lambda program: [module_path(node) for node in program.graph.nodes],
        lambda program: [(name, type(one)) for name, one in program.state_dict.items()],
    ):
        assert value(after) == value(before)


def test_files_written_from_a_loaded_run_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    quantized = run_folders.quantized()
    loaded = mrecg.load(quantized.save(tmp_path / "run"))
    files = [
        mrecg.export_onnx(one, tmp_path / f"{index}.onnx", runtime=None).read_bytes()
        for index, one in enumerate((quantized, loaded))
    ]
    assert files[0] == files[1]
    program = torch.export.load(mrecg.export_program(loaded, tmp_path / "model.pt2"))
    x = toys.images(3)
    assert torch.equal(program.module()(x), quantized.model(x))


def test_a_loaded_run_can_be_saved_again(run: Path, tmp_path: Path) -> None:
    again = mrecg.load(run).with_found(seconds={"all": 1.0}).save(tmp_path / "again")
    for name in run_folders.OTHERS:
        assert (again / name).read_bytes() == (run / name).read_bytes()
    assert mrecg.load(again).record.seconds == {"all": 1.0}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_runs_are_opened_under_any_mode(mode: Callable[[], Any], run: Path) -> None:
    x = toys.images(3)
    with mode():
        found = mrecg.load(run).model(x)
    assert torch.equal(found, run_folders.quantized().model(x))
