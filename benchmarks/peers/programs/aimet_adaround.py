"""AIMET's AdaRound of `float.pt`, and its ranges of activations, all by its "tf-enhanced" scheme of least noise."""

import torchvision_names  # type: ignore[import-not-found]  # noqa: F401

# isort: split
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from aimet_torch.adaround import Adaround, AdaroundParameters  # type: ignore[import-not-found]
from aimet_torch.batch_norm_fold import fold_all_batch_norms  # type: ignore[import-not-found]
from aimet_torch.common.defs import QuantScheme  # type: ignore[import-not-found]
from aimet_torch.model_preparer import prepare_model  # type: ignore[import-not-found]
from aimet_torch.quantsim import QuantizationSimModel  # type: ignore[import-not-found]
from torch import nn
from torch_modules import (  # type: ignore[import-not-found]
    END_BITS,
    batches,
    float_network,
    is_end,
    report_module,
)

AT_ONCE = 32
SCHEME = QuantScheme.post_training_tf_enhanced


def quantize(folder: Path, bits: str, iterations: int | None) -> nn.Module:
    """Return the quantized network; `None` iterations are AIMET's default."""
    weight_bits, activation_bits = map(int, re.findall(r"\d+", bits))
    images = batches(folder, AT_ONCE)
    model = prepare_model(float_network(folder))
    fold_all_batch_norms(model, tuple(images[0].shape))
    ends = [name for name, module in model.named_modules() if is_end(module)]
    parameters = AdaroundParameters(images, len(images), iterations)
    with tempfile.TemporaryDirectory() as encodings:
        rounded = Adaround.apply_adaround(
            model,
            images[0],
            parameters,
            path=encodings,
            filename_prefix="weights",
            default_param_bw=weight_bits,
            param_bw_override_list=[(model.get_submodule(name), END_BITS) for name in ends],
            default_quant_scheme=SCHEME,
        )
        simulation = QuantizationSimModel(
            rounded,
            dummy_input=images[0],
            quant_scheme=SCHEME,
            default_output_bw=activation_bits,
            default_param_bw=weight_bits,
        )
        _widen_ends(simulation.model, ends)
        simulation.set_and_freeze_param_encodings(str(Path(encodings) / "weights.encodings"))

    @torch.no_grad()
    def forward(network: nn.Module) -> None:
        for part in images:
            network(part)

    simulation.compute_encodings(forward)
    network: nn.Module = simulation.model
    return network


def _widen_ends(network: nn.Module, ends: list[str]) -> None:
    """Give the first and the last layer the widths that they have in mrecg: their weights, the images, the features and the answer."""
    layers: list[Any] = [network.get_submodule(name) for name in ends]
    for layer in layers:
        layer.param_quantizers["weight"].bitwidth = END_BITS
        for quantizer in layer.input_quantizers:
            if quantizer is not None:
                quantizer.bitwidth = END_BITS
    layers[-1].output_quantizers[0] = None
    # The pooling and what follows it, up to the last layer, give the features that it reads.
    order = list(network.named_modules())
    names = [name for name, _ in order]
    pooling = next(i for i, (_, module) in enumerate(order) if "Pool" in type(module).__name__)
    for _, module in order[pooling : names.index(ends[-1])]:
        for quantizer in getattr(module, "output_quantizers", ()):
            if quantizer is not None:
                quantizer.bitwidth = END_BITS


inputs, widths = Path(sys.argv[1]), sys.argv[2]
asked = int(sys.argv[3]) if len(sys.argv) > 3 else None
report_module(inputs, lambda: quantize(inputs, widths, asked))
