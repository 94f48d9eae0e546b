"""A layer as matrices: rows times patches are what torch's operator computes, whatever the layer."""

import pytest
import torch
from torch import Tensor, fx, nn

from mrecg.graph.layer_matrix import LayerMatrix, weight_source

LAYERS = {
    "linear": (nn.Linear(5, 3, bias=False), (2, 5)),
    "linear-3d": (nn.Linear(5, 3, bias=False), (2, 4, 5)),
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 7, 6)),
    "oblong": (nn.Conv2d(4, 6, (3, 2), (1, 2), (2, 0), (2, 1), bias=False), (2, 4, 9, 8)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, bias=False), (2, 6, 6, 5)),
    "depthwise": (nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False), (2, 5, 6, 6)),
    "same": (nn.Conv2d(3, 2, (5, 3), padding="same", bias=False), (2, 3, 5, 5)),
    "valid": (nn.Conv2d(3, 2, 3, padding="valid", bias=False), (2, 3, 5, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2, groups=2, bias=False), (2, 4, 9)),
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, bias=False),
        (2, 4, 5, 4),
    ),
    "transposed-grouped": (
        nn.ConvTranspose2d(6, 4, (3, 2), stride=(1, 3), dilation=(2, 1), groups=2, bias=False),
        (2, 6, 4, 5),
    ),
    "transposed-cropped": (nn.ConvTranspose2d(3, 2, 1, padding=1, bias=False), (2, 3, 6, 6)),
}


def captured(module: nn.Module, x: Tensor) -> tuple[fx.Node, Tensor]:
    """The layer's node and its weight."""
    graph = torch.export.export(module, (x,)).module().graph
    (layer,) = [node for node in graph.nodes if node.op == "call_function" and len(node.args) > 1]
    (weight,) = module.parameters()
    return layer, weight.detach()


@pytest.mark.parametrize("name", LAYERS)
def test_products_of_rows_and_patches_are_the_layer(name: str) -> None:
    module, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer, weight = captured(module, x)
    assert weight_source(layer) is layer.args[1]
    matrix = LayerMatrix.of(layer, weight)
    places = matrix.places(weight)
    assert torch.equal(places.flatten().sort().values, torch.arange(weight.numel()))
    rows = weight.flatten()[places]
    torch.testing.assert_close(matrix.patches(x) @ rows.mT, matrix.products(x, weight))
    # The images one after the other, so that parts of a batch are parts of the patches.
    first = matrix.patches(x[:1])
    assert torch.equal(matrix.patches(x)[:, : first.shape[1]], first)
