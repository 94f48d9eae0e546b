"""How far a model comes from float to a verified file.

Nothing begins at zero and batch norms know the images' statistics, so that no signal dies out on the way. Each network
has a process of its own: a crash of a runtime, too little memory or the time limit end this network only, and are what
was found about it.
"""

import contextlib
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import mrecg
from benchmarks.architectures.torchvision_import import import_torchvision
from benchmarks.architectures.zoo import make_from_zoo
from mrecg.paper.networks import make_network

__all__ = ["Findings", "examine", "examine_alone"]

NEXT_TO_NOTHING = 1e-3
"""A parameter without any larger number is given random ones."""


@dataclass
class Findings:
    """Record how far one model came.

    Attributes:
        captured, reconstructed, loaded, exported, verified: whether the stage was passed.
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
    loaded: bool = False
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
    def captured(progress: mrecg.Progress | mrecg.Estimate) -> None:
        captured = isinstance(progress, mrecg.Estimate) or progress.finished
        if captured and not found.captured:
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
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        loaded = found.timed("save and load", lambda: mrecg.load(quantized.save("run")))
        _require_equal(quantized, loaded, images)
        found.loaded = True
        path = Path("model.onnx")  # messages name it
        found.timed("export", lambda: mrecg.export_onnx(quantized, path))
        found.exported = True
        report(found)
        verification = found.timed(
            "verify", lambda: mrecg.verify_onnx(quantized, path, images, repeats=0)
        )
    found.verification = verification.model_dump(mode="json")
    found.verified = True


def _require_equal(
    quantized: mrecg.QuantizedModel, loaded: mrecg.QuantizedModel, images: Tensor
) -> None:
    """Refuse a loaded model whose outputs differ by a bit."""
    with torch.no_grad():
        wanted, found = (tree_leaves(one.model(images)) for one in (quantized, loaded))
    for one, other in zip(wanted, found, strict=True):
        if not (torch.equal(one, other) if isinstance(one, Tensor) else one == other):
            raise ValueError("the loaded run computes something else than the one that was saved")


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
    source, _, inner = name.partition(":")
    if source in ("timm", "torchvision", "zoo"):  # timm and others import torchvision
        import_torchvision()
    return make_from_zoo(inner) if source == "zoo" else make_network(name)


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
