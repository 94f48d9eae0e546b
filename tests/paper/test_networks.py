"""The definitions: as large as published, with the outputs of the field's own definitions, and cut as the paper cuts."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mrecg.config.presets import preset
from mrecg.errors import ModelError
from mrecg.paper.networks import NETWORKS, build, has_own_weights, make_network
from mrecg.paper.networks.regnet import WIDTH_RULES
from mrecg.pipeline import prepare

RECIPE = preset("w4a4-brecq", {"weight.ranges.method": "minmax"})
"""Whose weight ranges need no search."""
PUBLISHED = {
    "resnet18": (11_689_512, 1.82e9),
    "resnet34": (21_797_672, 3.68e9),
    "resnet50": (25_557_032, 4.11e9),
    "resnet101": (44_549_160, 7.83e9),
    "resnet152": (60_192_808, 11.6e9),
    "mobilenetv2_140": (6_108_776, 582e6),
    "mobilenetv2_100": (3_504_872, 300e6),
    "mobilenetv2_075": (2.64e6, 209e6),
    "mobilenetv2_050": (1.97e6, 97e6),
    "mobilenetv2_035": (1.68e6, 59e6),
    "regnetx_200m": (2.7e6, 0.2e9),
    "regnetx_400m": (5.2e6, 0.4e9),
    "regnetx_600m": (6_196_040, 0.6e9),
    "regnetx_800m": (7.3e6, 0.8e9),
    "regnetx_1600m": (9.2e6, 1.6e9),
    "regnetx_3200m": (15.3e6, 3.2e9),
    "regnetx_4000m": (22.1e6, 4.0e9),
    "regnetx_6400m": (26.2e6, 6.5e9),
    "regnetx_8000m": (39.6e6, 8.0e9),
    "regnetx_12000m": (46.1e6, 12.1e9),
    "regnetx_16000m": (54.3e6, 15.9e9),
    "regnetx_32000m": (107.8e6, 31.7e9),
    "efficientnet_lite0": (4_652_008, 0.39e9),
}
"""Parameters and multiply-adds: torchvision's, d-li14's, pycls' and timm's tables, rounded as they are."""


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights and statistics under which every tensor matters and values neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    parameters, multiply_adds = PUBLISHED[name]
    with torch.device("meta"):
        model = build(name)
        image = torch.empty(1, NETWORKS[name].preprocessing.channels, 224, 224)
    with FlopCounterMode(display=False) as counter:
        assert model(image).shape == (1, 1000)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == pytest.approx(parameters, rel=0 if isinstance(parameters, int) else 0.01)
    assert counter.get_total_flops() / 2 == pytest.approx(multiply_adds, rel=0.015)


def test_every_imagenet_network_is_checked() -> None:
    assert set(PUBLISHED) == {
        name for name, facts in NETWORKS.items() if facts.preprocessing.crop == 224
    }


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "regnetx_200m", "resnet18_small"])
def test_number_of_classes(name: str) -> None:
    with torch.device("meta"):
        assert list(build(name, num_classes=7).state_dict().values())[-1].shape == (7,)
        default = list(build(name).state_dict().values())[-1].shape
    assert default == (NETWORKS[name].num_classes,)


def test_a_network_needs_a_class() -> None:
    with pytest.raises(ModelError, match="resnet18 needs at least 1 class, got 0"):
        build("resnet18", num_classes=0)


@pytest.mark.parametrize(
    ("mega_multiply_adds", "depths", "widths"),
    [
        (400, [1, 2, 7, 12], [32, 64, 160, 384]),  # torchvision rounds 392 up, to 400
        (600, [1, 3, 5, 7], [48, 96, 240, 528]),
        (3200, [2, 6, 15, 2], [96, 192, 432, 1008]),
        (8000, [2, 5, 15, 1], [80, 240, 720, 1920]),
    ],
)
def test_stages_of_the_width_rule(
    mega_multiply_adds: int, depths: list[int], widths: list[int]
) -> None:
    """The rows of Table 11 of Radosavovic et al."""
    stages = WIDTH_RULES[mega_multiply_adds].stages()
    assert (list(stages), list(stages.values())) == (widths, depths)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 10),
        ("resnet50", 18),
        ("mobilenetv2_050", 20),
        ("regnetx_600m", 18),
        ("efficientnet_lite0", 19),
    ],
)
def test_units(name: str, count: int) -> None:
    """The paper's, but for MobileNetV2, where it joins the stem to block 1 and the last convolution to the classifier."""
    model, images = build(name, num_classes=10), torch.randn(2, 3, 64, 64)
    units = prepare(model, images, recipe=RECIPE).graph.chain.units
    assert len(units) == count
    first, last = units[0].layers[0], units[-1].layers[-1]
    assert (first.bits, last.bits) == (8, 8)


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("resnet18", "resnet18", {}),
        ("resnet50", "resnet50", {}),
        ("mobilenetv2_100", "mobilenet_v2", {}),
        ("mobilenetv2_035", "mobilenet_v2", {"width_mult": 0.35}),
        ("mobilenetv2_140", "mobilenet_v2", {"width_mult": 1.4}),
        ("regnetx_800m", "regnet_x_800mf", {}),
        ("regnetx_8000m", "regnet_x_8gf", {}),
    ],
)
def test_outputs_are_torchvisions(
    name: str, theirs: str, arguments: dict[str, float], torchvision: ModuleType
) -> None:
    reference = torchvision.models.get_model(theirs, weights=None, **arguments).eval()
    assert_same_outputs(build(name), reference)


@pytest.mark.parametrize("size", [64, 75])
def test_outputs_of_efficientnet_lite0_are_timms(size: int, timm: ModuleType) -> None:
    """Also at odd sizes, where TensorFlow's padding is the usual one."""
    model, reference = build("efficientnet_lite0"), timm.create_model("tf_efficientnet_lite0")
    assert_same_outputs(model, reference, size)


@torch.inference_mode()
def assert_same_outputs(model: nn.Module, reference: nn.Module, size: int = 64) -> None:
    """With the same tensors in the same order; names are the business of checkpoints."""
    randomise(reference)
    tensors = zip(model.state_dict(), reference.state_dict().values(), strict=True)
    model.load_state_dict(dict(tensors))
    images = torch.randn(2, 3, size, size)
    expected = reference.eval()(images)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    "name", ["timm:mobilenetv2_035", "timm:resnet18.a1_in1k", "torchvision:resnet18"]
)
@pytest.mark.usefixtures("timm", "torchvision")
def test_other_libraries_by_name(name: str) -> None:
    model = make_network(name, num_classes=5)
    assert not model.training
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    assert not has_own_weights(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet81", "did you mean 'timm:resnet"),
        ("timm:" + "?" * 9, r"timm.list_models\(\) lists them"),
        ("torchvision:resnet81", "did you mean 'torchvision:resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", "There is no network"),
    ],
)
@pytest.mark.usefixtures("timm", "torchvision")
def test_unknown_names_in_other_libraries(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_network(name)


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet18_small'"):
        make_network("resnet18_smal")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_missing_library(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"pip install 'mrecg\[{package}\]'"):
        make_network(f"{package}:resnet18")
