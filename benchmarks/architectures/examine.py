"""Which architectures go from a float model to a verified file; one JSON file per model, finished are skipped.

python benchmarks/architectures.py                                    # the list below
python benchmarks/architectures.py timm:resnet10t resnet18 torchvision:alexnet@96

Behind @ stands the side of the images, 64 if absent. Weights are random and images are noise: whether a model passes
does not depend on what it has learned, and the outputs must still agree. Nothing begins at zero and batch norms know the
images' statistics, so that no signal dies out on the way. Each model is reconstructed by a few steps of QDrop under
the placement for ONNX Runtime, exported in the layout int8, and compared with the simulation, ties apart.

Each model has a process of its own: a crash of a runtime, too little memory or the time limit end this model only, and
are what was found about it.
"""

import argparse
import json
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mrecg
import mrecg.paper.networks
from accuracy import commit
from export import PACKAGES
from torchvision_import import import_torchvision

HERE = Path(__file__).parent
DEFAULT_SIDE = 64
NEXT_TO_NOTHING = 1e-3
"""A parameter without any larger number is given random ones."""
FAMILIES = {
    "residual": (
        "resnet18 regnetx_200m timm:resnetv2_18 timm:resnetblur18 timm:nf_resnet26 timm:dla46_c "
        "timm:hrnet_w18_small timm:gernet_s timm:test_byobnet"
    ),
    "depthwise": (
        "mobilenetv2_035 efficientnet_lite0 torchvision:mnasnet0_5 timm:mixnet_s timm:mobilenetv4_conv_small_035 "
        "timm:starnet_s050 timm:convnext_atto timm:inception_next_atto timm:fasternet_t0"
    ),
    "dense": (
        "torchvision:densenet121 timm:ese_vovnet19b_slim timm:hgnetv2_b0 timm:cs3darknet_s timm:selecsls42"
    ),
    "split/shuffle": (
        "torchvision:shufflenet_v2_x0_5 timm:ghostnet_050 timm:resnest14d timm:res2net50_48w_2s"
    ),
    "squeeze-excite": (
        "timm:mobilenetv3_small_050 timm:regnety_002 timm:lcnet_035 timm:skresnet18 timm:test_nfnet"
    ),
    "inception": "torchvision:googlenet torchvision:inception_v3@96 torchvision:squeezenet1_1",
    "re-parameterised": (
        "timm:repvgg_a0 timm:mobileone_s0 timm:repghostnet_050 timm:repvit_m0_9 timm:fastvit_t8"
    ),
    "attention": (
        "timm:deit_tiny_patch16_224@224 torchvision:swin_t timm:xcit_nano_12_p16_224@224 timm:pvt_v2_b0 "
        "timm:pit_ti_224@224 timm:eva02_tiny_patch14_224@224 timm:mixer_s32_224@224 timm:gmlp_ti16_224@224 "
        "timm:twins_svt_small timm:mvitv2_tiny@224 timm:hiera_tiny_224@224 timm:nest_tiny@224 "
        "timm:swinv2_cr_tiny_224@224"
    ),
    "hybrid": (
        "timm:mobilevit_xxs timm:mobilevitv2_050 timm:edgenext_xx_small timm:efficientvit_b0 "
        "timm:levit_128s@224 timm:poolformer_s12 timm:test_maxvit@160 timm:test_coatnet@160 timm:botnet26t_256@256 "
        "timm:tiny_vit_5m_224@224"
    ),
}
"""Architectures by what makes them different."""


@dataclass
class Findings:
    """How far one model came.

    Attributes:
        captured, reconstructed, exported, verified: whether the stage was passed.
        units: it was cut into.
        layers: of them, convolutions and linear layers.
        left_in_float: layers without a quantized weight.
        problem: why the stage after the last one passed failed.
        seconds: by stage.
        verification: what `verify_onnx` gave.
    """

    captured: bool = False
    units: int = 0
    layers: int = 0
    left_in_float: Sequence[str] = ()
    reconstructed: bool = False
    exported: bool = False
    verified: bool = False
    problem: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    verification: dict[str, Any] | None = None

    def timed(self, stage: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[stage] = round(time.perf_counter() - started, 1)


Report = Callable[[Findings], None]


def examine(
    make: Callable[[], nn.Module],
    images: Tensor,
    recipe: mrecg.Recipe,
    report: Report = lambda found: None,
) -> Findings:
    """Take a model as far as it goes.

    Args:
        make: the model.
        images: to calibrate and to compare on.
        recipe: to quantize with.
        report: called with what is known after each stage, for the case that the process does not survive the next.
    """
    found = Findings()
    try:
        model = make()
        settle(model, images)
        _take_through(model, images, recipe, found, report)
    except Exception as error:  # whatever it is, it is the finding
        kind = "" if isinstance(error, mrecg.MrecgError) else f"{type(error).__name__}: "
        found.problem = kind + " ".join(str(error).split())[:500]
    report(found)
    return found


def _take_through(
    model: nn.Module, images: Tensor, recipe: mrecg.Recipe, found: Findings, report: Report
) -> None:
    def captured(progress: mrecg.Progress) -> None:
        if not found.captured:
            found.captured = True
            report(found)

    quantized = found.timed(
        "quantize", lambda: mrecg.quantize(model, images, recipe=recipe, progress=captured)
    )
    record = quantized.record
    found.reconstructed = True
    found.units = len(record.units)
    found.layers = len({layer.name for unit in record.units for layer in unit.layers})
    found.left_in_float = record.left_in_float
    report(found)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        found.timed("export", lambda: mrecg.export_onnx(quantized, path))
        found.exported = True
        report(found)
        verification = found.timed(
            "verify", lambda: mrecg.verify_onnx(quantized, path, images, repeats=0)
        )
    found.verification = verification.model_dump(mode="json")
    found.verified = True


def settle(model: nn.Module, images: Tensor) -> None:
    """Let signals through, as training would: nothing begins at zero, and batch norms know these images.

    Classifiers, scales of residual branches and position biases that begin at zero, or close to it, would hide
    whatever is computed before them.
    """
    for parameter in model.parameters():
        if float(parameter.detach().abs().max()) < NEXT_TO_NOTHING:
            nn.init.normal_(parameter, std=0.1)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
    with torch.no_grad():
        model(images)
    model.eval()


def examine_alone(
    name: str, shape: Sequence[int], recipe: mrecg.Recipe, seconds: float
) -> Findings:
    """Examine a network in a process of its own; how that ends is a finding, too."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine_named, args=(name, shape, recipe, sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    found, deadline = Findings(), time.monotonic() + seconds
    while in_time := receiver.poll(max(0.0, deadline - time.monotonic())):
        try:
            found = receiver.recv()
        except EOFError:
            break
    if not in_time:
        process.kill()
    process.join()
    if not in_time:
        found.problem = f"stopped after {seconds:g} s"
    elif process.exitcode:
        found.problem = f"the process ended with {_end(process.exitcode)}"
    return found


def _examine_named(
    name: str, shape: Sequence[int], recipe: mrecg.Recipe, sender: Connection
) -> None:
    torch.manual_seed(0)
    examine(lambda: _network(name), torch.randn(*shape), recipe, sender.send)


def _network(name: str) -> nn.Module:
    if name.startswith(("timm:", "torchvision:")):  # timm imports torchvision
        import_torchvision()
    return mrecg.paper.networks.network(name)


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "torchao", "timm", "torchvision", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def family(name: str) -> str:
    found = (one for one, names in FAMILIES.items() if name in names.split())
    return next(found, "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [name for names in FAMILIES.values() for name in names.split()]
    parser.add_argument("models", nargs="*", default=everything, help="NAME or NAME@SIDE")
    parser.add_argument("--preset", default="w4a8-qdrop")
    parser.add_argument("--steps", type=int, default=2, help="of each unit")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--limit", type=float, default=900, help="seconds for a model")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "architectures")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = {"reconstruct.steps": arguments.steps, "reconstruct.batch_size": 4}
    recipe = mrecg.preset(arguments.preset, settings).for_backend("onnxruntime")
    for model in arguments.models:
        name, _, side = model.partition("@")
        path = arguments.output / f"{name.replace(':', '-')}.json"
        if path.exists():
            continue
        shape = (arguments.images, 3, *[int(side or DEFAULT_SIDE)] * 2)
        found = examine_alone(name, shape, recipe, arguments.limit)
        result = {
            "network": name,
            "family": family(model),
            "shape": shape,
            **vars(found),
            "commit": commit(),
            "recipe": recipe.model_dump(mode="json"),
            "versions": versions(),
        }
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {found.problem or 'verified'}", flush=True)


if __name__ == "__main__":
    main()
