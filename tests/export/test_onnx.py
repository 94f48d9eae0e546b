"""What is exported is what was simulated: every kind of graph, placement, width and layout."""

import functools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.errors import ExportError
from mrecg.export import requirements
from mrecg.export.onnx import files
from mrecg.export.onnx.runtimes import open_file
from mrecg.export.onnx.verification import ideal_bytes
from mrecg.graph.insert import Quantizer
from mrecg.quantizers.packing import _AT_ONCE, pack, unpack
from mrecg.runs.folder import QuantizedModel


@functools.cache  # one run for both layouts
def quantized_toy(
    toy: str, name: str = "w4a4-rtn", quantizer: Quantizer | None = None, **settings: object
) -> QuantizedModel:
    recipe = mrecg.preset(name, {key.replace("__", "."): value for key, value in settings.items()})
    return mrecg.quantize(toys.make(toy), toys.images(32), recipe=recipe, quantizer=quantizer)


def vendor(name: str) -> Quantizer:
    from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer, x86_inductor_quantizer

    module = {"x86": x86_inductor_quantizer, "arm": arm_inductor_quantizer}[name]
    kind = module.X86InductorQuantizer if name == "x86" else module.ArmInductorQuantizer
    configuration = getattr(module, f"get_default_{name}_inductor_quantization_config")()
    return kind().set_global(configuration)


PACKED = ("residual", "two-outputs", "vit")
"""A layout concerns weights alone; these have convolutions, products and several outputs."""


def nodes_of(path: Path) -> list[onnx.NodeProto]:
    return list(onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("toy", "layout"),
    [*((toy, "int8") for toy in toys.TOYS), *((toy, "packed") for toy in PACKED)],
)
def test_every_graph_in_every_layout(toy: str, layout: files.Layout, tmp_path: Path) -> None:
    quantized = quantized_toy(toy)
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx", layout)
    onnx.checker.check_model(path)
    result = mrecg.verify_onnx(quantized, path, toys.images(50, seed=3), repeats=0)
    assert result.top1_agreement_ties_apart == 100
    run = open_file("onnxruntime", path)
    for count in (1, 3):  # the batch is dynamic
        assert run(toys.images(count).numpy())[0].shape == (count, 5)
    modules = {name for name, _ in toys.make(toy).named_modules()}
    layers = [node.name for node in nodes_of(path) if node.op_type in ("Conv", "Gemm")]
    assert layers
    assert all(name.rsplit("/", 1)[0] in modules for name in layers)


@pytest.mark.parametrize("layout", ["int8", "packed"])
@pytest.mark.parametrize(
    ("bits", "symmetric"),
    [
        ("w8a8", False),
        ("w4a8", True),
        ("w5a5", False),
        ("w3a3", False),
        ("w2a4", True),
        ("w2a2", False),
    ],
)
def test_every_width(bits: str, symmetric: bool, layout: files.Layout, tmp_path: Path) -> None:
    quantized = quantized_toy(
        "residual",
        f"{bits}-rtn",
        weight__symmetric=symmetric,
        activation__symmetric=symmetric,
        placement__first_last="same",
    )
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx", layout)
    assert mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0).largest_distance < 0.51
    model = onnx.load(path)
    width = {"w2": 2, "w3": 4, "w4": 4}.get(bits[:2], 8) if layout == "packed" else 8
    types = {
        tensor.data_type
        for tensor in model.graph.initializer
        if tensor.name.endswith(".weight") or tensor.name.endswith("weight.codes")
    }
    names = {onnx.TensorProto.DataType.Name(kind) for kind in types}
    in_gemm = {"INT4", "UINT4"} if width == 2 else set()
    assert names - in_gemm
    assert names - in_gemm <= {f"INT{width}", f"UINT{width}"}
    assert model.opset_import[0].version == {2: 25, 4: 21, 8: 20}[width]
    biases = [t for t in model.graph.initializer if t.name.endswith("bias")]
    assert biases
    assert {tensor.data_type for tensor in biases} == {onnx.TensorProto.INT32}


def test_integer_convolutions_everywhere(tmp_path: Path) -> None:
    """Bounds of ReLUs become bounds of codes, quantizers move before the pooling."""
    recipe = mrecg.preset("w4a4-rtn").for_backend("onnxruntime")
    for toy in ("chain", "residual"):
        quantized = mrecg.quantize(toys.make(toy), toys.images(16), recipe=recipe)
        path = mrecg.export_onnx(quantized, tmp_path / f"{toy}.onnx")
        result = mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0)
        allowed = {"stage.three.b"} if toy == "residual" else set()  # its sum is averaged in float
        assert set(result.float_layers) <= allowed
        counts = Counter(node.op_type for node in nodes_of(path))
        assert counts["Relu"] <= len(allowed)


def test_activations_saturate_at_their_own_range(tmp_path: Path) -> None:
    quantized = quantized_toy("chain", "w4a3-rtn")
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    images = 100 * toys.images(20)  # far outside of what was calibrated
    result = mrecg.verify_onnx(quantized, path, images, repeats=0)
    assert result.largest_distance < 0.51
    assert any(node.op_type == "Clip" and "saturate" in node.name for node in nodes_of(path))


@pytest.mark.parametrize("name", ["x86", "arm"])
def test_vendors_placements_end_to_end(name: str, tmp_path: Path) -> None:
    """Reconstruction on top of a vendor's quantizer, exported in both formats."""
    recipe = mrecg.preset("w8a8-brecq", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    quantized = mrecg.quantize(
        toys.make("residual"), toys.images(32), recipe=recipe, quantizer=vendor(name)
    )
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    assert mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0).largest_distance < 0.51
    program = torch.export.load(mrecg.export_program(quantized, tmp_path / "model.pt2"))
    images = toys.images(7)
    assert torch.equal(program.module()(images), quantized.model(images))


def test_layers_left_in_float(tmp_path: Path) -> None:
    overrides = [{"layers": "stage.two.*", "weight_bits": 32, "activation_bits": 32}]
    recipe = mrecg.preset("w4a4-rtn", {"placement.overrides": overrides})
    quantized = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe)
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    result = mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0)
    assert {"stage.two.a", "stage.two.b", "stage.two.project"} <= set(result.float_layers)


def test_a_channel_without_weights_keeps_its_bias(tmp_path: Path) -> None:
    """32 bits of an accumulator step of 1e-8 would not hold it."""
    model = toys.make("chain")
    model[0].weight.data[1] *= 1e-12
    model[0].bias.data[1] = 3
    quantized = mrecg.quantize(model, toys.images(32), recipe=mrecg.preset("w4a8-rtn"))
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    assert mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0).largest_distance < 0.51
    assert float(quantized.program.state_dict["0.bias_rounded"][1]) == pytest.approx(3)


def test_biases_are_whole_multiples_of_the_scales_of_a_quantizer_that_another_unit_owns() -> None:
    """A branch's first layer reads what the branch before it has quantized."""
    recipe = mrecg.preset("w4a8-rtn", {"plan.granularity": "layer"}).for_backend("onnxruntime")
    quantized = mrecg.quantize(toys.make("inception"), toys.images(32), recipe=recipe)
    biases = [name for name in quantized.program.state_dict if "bias" in name]
    assert len(biases) == 12
    assert all(name.endswith("bias_rounded") for name in biases)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_without_bias(bits: int, tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Flatten(),
        nn.Linear(64, 5, bias=False),
    )
    recipe = mrecg.preset(f"w{bits}a8-rtn", {"placement.first_last": "same"})
    quantized = mrecg.quantize(model, toys.images(32), recipe=recipe)
    for layout in ("int8", "packed"):
        path = mrecg.export_onnx(quantized, tmp_path / f"{layout}.onnx", layout)  # type: ignore[arg-type]
        result = mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0)
        assert result.largest_distance < 0.51


def test_a_layout_that_the_runtime_cannot_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized, path = quantized_toy("chain", "w2a4-rtn"), tmp_path / "model.onnx"
    monkeypatch.setattr(files, "can_load", lambda runtime, kind: kind != ir.DataType.UINT2)
    with pytest.raises(ExportError, match=r"cannot load UINT2 weights.*use the layout 'int8'"):
        mrecg.export_onnx(quantized, path, "packed")
    assert not path.exists()
    mrecg.export_onnx(quantized, path, "packed", runtime=None)
    mrecg.export_onnx(quantized, path, "int8")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "is_installed", lambda package: package != "onnxscript")
    with pytest.raises(ExportError, match=r"package onnxscript.*install mrecg\[onnx\]"):
        requirements.require("onnx", "onnxscript")


def test_a_missing_package_is_named_before_anything_needs_it() -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "onnx" else find(name, *rest)
sys.modules["onnx"] = None
import mrecg
try:
    mrecg.export_onnx
except mrecg.MrecgError as error:
    assert "need the package onnx, which is not installed" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        mrecg.export_onnx(quantized_toy("chain"), tmp_path / "file" / "model.onnx")
    with pytest.raises(ExportError, match="cannot be written"):
        mrecg.export_program(quantized_toy("chain"), tmp_path / "file" / "model.pt2")


def test_more_classes_than_torch_folds_constants_of(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 8), nn.Flatten(), nn.Linear(4, 8500))
    quantized = mrecg.quantize(model, toys.images(4), recipe=mrecg.preset("w4a8-rtn"))
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    assert mrecg.verify_onnx(quantized, path, toys.images(4), repeats=0).integer_layers


class Attention(nn.Module):
    """One head without an axis of its own, or two in each of four windows."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 5)
        self.bias = nn.Parameter(torch.randn(64, 64) if axes == 3 else torch.randn(2, 4, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        tokens = functional.relu(self.stem(x)).flatten(2).transpose(1, 2)
        three = self.qkv(tokens).chunk(3, -1)
        if self.axes == 5:
            three = [t.unflatten(1, (4, 16)).unflatten(-1, (2, 4)) for t in three]
            three = [t.permute(0, 3, 1, 2, 4) for t in three]
        mixed = functional.scaled_dot_product_attention(*three, attn_mask=self.bias)
        if self.axes == 5:
            mixed = mixed.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
        return self.proj(mixed.mean(1))


@pytest.mark.parametrize("axes", [3, 5])
def test_attention_of_other_than_four_axes(axes: int, tmp_path: Path) -> None:
    """torch.onnx 2.13 knows four only."""
    torch.manual_seed(0)
    recipe = mrecg.preset("w4a8-rtn").for_backend("onnxruntime")
    quantized = mrecg.quantize(Attention(axes), toys.images(32), recipe=recipe)
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    result = mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0)
    assert {"stem", "qkv", "proj"} <= set(result.integer_layers)


def test_program_is_read_without_mrecg(tmp_path: Path) -> None:
    quantized, images = quantized_toy("residual", "w3a4-rtn"), toys.images(6)
    path = mrecg.export_program(quantized, tmp_path / "model.pt2")
    torch.save((images, quantized.model(images)), tmp_path / "expected.pt")
    code = (
        "import sys, torch; sys.modules['mrecg'] = None\n"
        "import torchao.quantization.pt2e\n"
        f"model = torch.export.load({str(path)!r}).module()\n"
        f"images, expected = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        "assert torch.equal(model(images), expected)\n"
        "names = {str(node.target) for node in model.graph.nodes}\n"
        "assert 'quantized_decomposed.quantize_per_tensor.default' in names\n"
        "assert 'quantized_decomposed.dequantize_per_channel.default' in names\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_inductor_lowers_the_program() -> None:
    """Every layer becomes an integer kernel of oneDNN."""
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

    quantized, images = quantized_toy("residual", "w8a8-rtn", vendor("x86")), toys.images(8)
    with torch.no_grad():
        lowered = lower_pt2e_quantized_to_x86(quantized.model, (images,))
        expected, got = quantized.model(images), lowered(images)
    kernels = Counter(str(node.target).split(".")[1] for node in layer_calls(lowered))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in toys.make("residual").modules())
    assert sum(n for name, n in kernels.items() if name.startswith("qconv")) == convolutions
    assert sum(n for name, n in kernels.items() if name.startswith("qlinear")) == 1
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def layer_calls(lowered: nn.Module) -> list[fx.Node]:
    assert isinstance(lowered, fx.GraphModule)
    return [node for node in lowered.graph.nodes if str(node.target).startswith("onednn.")]


@pytest.mark.parametrize("low", [0, -4])
@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_take_their_bits(bits: int, low: int) -> None:
    high = low + 2**bits - 1
    codes: Tensor = torch.randint(
        low, high + 1, (5, 3, 7), generator=torch.Generator().manual_seed(bits)
    )
    packed = pack(codes, low, high)
    assert packed.numel() == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack(packed, low, high, (5, 3, 7), torch.int64), codes)
    with pytest.raises(ValueError, match="hold no"):
        unpack(packed[:-1], low, high, (5, 3, 7), torch.int64)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_files_are_as_small_as_their_bits(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 64, 3), nn.ReLU(), *(nn.Conv2d(64, 64, 3, padding=1) for _ in range(8))
    )
    recipe = mrecg.preset(f"w{bits}a8-rtn", {"placement.first_last": "same"})
    quantized = mrecg.quantize(model, toys.images(4), recipe=recipe)
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx", "packed")
    ideal = ideal_bytes(quantized)
    assert ideal >= bits * 8 * 64 * 64 * 9 / 8
    stored = {3: 4}.get(bits, bits)
    assert path.stat().st_size < 1.1 * ideal * stored / bits + 16_000  # names and nodes
    folder = quantized.save(tmp_path / "run")
    assert (folder / "model.safetensors").stat().st_size < 1.1 * ideal


def test_codes_are_packed_in_portions() -> None:
    """One portion and a half take the same bytes as all at once would."""
    count = _AT_ONCE + _AT_ONCE // 2 + 3
    codes = torch.randint(0, 8, (count,), generator=torch.Generator().manual_seed(0))
    packed = pack(codes, 0, 7)
    assert packed.numel() == -(-count * 3 // 8)
    assert torch.equal(unpack(packed, 0, 7, (count,), torch.int64), codes)
