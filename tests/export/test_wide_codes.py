"""Codes of 16 bits, and weights beside floats: ONNX Runtime has no integer layers for them, and computes what was simulated."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.errors import ExportError
from mrecg.export.onnx.graphs import container_of


class Tokens(nn.Module):
    """A convolution, a bound and pooling, and products of tokens, whose weights ONNX Runtime likes to fuse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.up, self.down, self.fc = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(functional.max_pool2d(self.stem(x).clamp(-1, 1), 2))
        tokens = y.flatten(2).transpose(1, 2)
        return self.fc((tokens + self.down(functional.gelu(self.up(tokens)))).mean(1))


ALL_LAYERS = {"placement.first_last": "same"}
SYMMETRIC = {**ALL_LAYERS, "activation.symmetric": True, "activation.narrow": True}


@pytest.mark.parametrize(
    ("bits", "settings", "backend", "types"),
    [
        ("w8a16", {}, "pplw8a16", {"UINT8", "UINT16"}),
        ("w16a16", SYMMETRIC, None, {"INT16"}),
        ("w4a32", ALL_LAYERS, None, set()),
    ],
)
def test_a_file_computes_what_was_simulated(
    bits: str, settings: dict[str, object], backend: str | None, types: set[str], tmp_path: Path
) -> None:
    recipe = mrecg.preset(f"{bits}-rtn", settings)
    recipe = recipe.for_backend(backend) if backend else recipe
    quantized = mrecg.quantize(Tokens(), toys.images(16), recipe=recipe)
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    found = mrecg.verify_onnx(quantized, path, toys.images(20, seed=3), repeats=0)
    assert found.outputs[0].relative_error is not None
    assert found.outputs[0].relative_error < 1e-4
    model = onnx.load(path)
    zero_points = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {one.data_type for one in model.graph.initializer if one.name in zero_points}
    assert {onnx.TensorProto.DataType.Name(kind) for kind in kinds} == types
    assert model.opset_import[0].version == (21 if "16" in bits else 20)


def test_codes_beyond_16_bits_are_refused() -> None:
    names = {bounds: container_of(*bounds).name for bounds in ((0, 255), (-1, 255), (0, 256))}
    assert names == {(0, 255): "UINT8", (-1, 255): "INT16", (0, 256): "UINT16"}
    with pytest.raises(ExportError, match=r"codes from -1 to 65535, .* with fewer bits\."):
        container_of(-1, 65535)
