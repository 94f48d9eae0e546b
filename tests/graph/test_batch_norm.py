"""Batch norms are folded where that changes nothing, and stay where it would."""

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys


class TwoNormsOfOneLayer(nn.Module):
    """As the heads of EfficientDet: one convolution, a norm for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.stem, self.shared = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.first(self.shared(x)) + self.second(self.shared(2 * x))


class NormOfOneOfTwoCalls(TwoNormsOfOneLayer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.shared(torch.relu(self.first(self.shared(x))))


class NormBesideAnotherReader(TwoNormsOfOneLayer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.shared(self.stem(x))
        return torch.relu(self.first(y)) + y


class NormOfAnOutput(TwoNormsOfOneLayer):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.shared(self.stem(x))
        return y, self.first(y)


class GroupedTransposed(TwoNormsOfOneLayer):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(self.shared(self.stem(x))))


class Usual(TwoNormsOfOneLayer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.shared(torch.relu(self.first(self.stem(x))))))


MODELS = (
    TwoNormsOfOneLayer,
    NormOfOneOfTwoCalls,
    NormBesideAnotherReader,
    NormOfAnOutput,
    GroupedTransposed,
    Usual,
)


def make(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    for norm in (model.first, model.second):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            torch.nn.init.normal_(tensor)
        torch.nn.init.uniform_(norm.running_var, 0.2, 3.0)
    return model


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    made = model(x)
    return [made] if isinstance(made, Tensor) else list(made)


@pytest.mark.parametrize("kind", MODELS)
def test_without_quantizers_the_network_is_the_callers(kind: type[nn.Module]) -> None:
    model, x = make(kind), toys.images(8)
    settings = {"placement.first_last_bits": 32}
    same = mrecg.quantize(model, x, recipe=mrecg.preset("w32a32-rtn", settings)).model
    torch.testing.assert_close(outputs(same, x), outputs(model, x))


@pytest.mark.parametrize("kind", MODELS)
def test_at_eight_bits_it_is_nearly_the_callers(kind: type[nn.Module]) -> None:
    model, x = make(kind), toys.images(32)
    close = mrecg.quantize(model, x, recipe=mrecg.preset("w8a8-rtn")).model
    for made, wanted in zip(outputs(close, x), outputs(model, x), strict=True):
        assert (made - wanted).square().mean() < 1e-3 * wanted.square().mean()


def test_what_can_be_folded_is() -> None:
    targets = {
        kind: {
            str(node.target)
            for node in mrecg.quantize(
                make(kind), toys.images(8), recipe=mrecg.preset("w8a8-rtn")
            ).model.graph.nodes  # type: ignore[union-attr]
        }
        for kind in MODELS
    }
    norms = {kind for kind, found in targets.items() if any("batch_norm" in name for name in found)}
    assert norms == {*MODELS} - {Usual}
