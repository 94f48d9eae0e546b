"""Brevitas' post-training quantization of `float.pt` with GPTQ or Qronos, in the steps of its own ImageNet example.

Ranges are those of least squared error, of weights per channel and asymmetric; equalization, the order of the columns and the
correction of biases are as its example has them.
"""

import re
import sys
from pathlib import Path

import torch
from brevitas.graph.quantize import (  # type: ignore[import-not-found]
    layerwise_quantize,
    preprocess_for_quantize,
)
from brevitas.inject import value  # type: ignore[import-not-found]
from brevitas_examples.imagenet_classification.ptq import (  # type: ignore[import-not-found]
    ptq_common as example,
)
from torch import nn
from torch_modules import (  # type: ignore[import-not-found]
    END_BITS,
    batches,
    float_network,
    is_end,
    report_module,
)

AT_ONCE = 64
EQUALIZATION_ITERATIONS = 20
PERCENTILE = 99.999


def quantize(folder: Path, bits: str, method: str) -> nn.Module:
    """Return the quantized network."""
    weight_bits, activation_bits = map(int, re.findall(r"\d+", bits))

    @value  # type: ignore[untyped-decorator]
    def weight_width(module: nn.Module) -> int:
        return END_BITS if is_end(module) else weight_bits

    @value  # type: ignore[untyped-decorator]
    def activation_width(module: nn.Module) -> int:
        return END_BITS if is_end(module) else activation_bits

    images = [(part, None) for part in batches(folder, AT_ONCE)]
    model: nn.Module = preprocess_for_quantize(
        float_network(folder), equalize_iters=EQUALIZATION_ITERATIONS
    )
    _, layers, _, _ = example.create_quant_maps(
        dtype=torch.float32,
        bias_bit_width=32,
        weight_bit_width=weight_width,
        weight_param_method="mse",
        weight_scale_type="float_scale",
        weight_quant_type="asym",
        weight_quant_granularity="per_channel",
        weight_narrow_range=False,
        weight_quant_format="int",
        act_quant_format="int",
        act_bit_width=activation_width,
        act_scale_type="float_scale",
        act_scale_computation_type="static",
        act_param_method="mse",
        act_quant_type="asym",
        act_quant_granularity="per_tensor",
        act_quant_percentile=PERCENTILE,
    )
    model = layerwise_quantize(model, compute_layer_map=layers)
    with torch.no_grad():
        model(images[0][0])  # initializes scales, as the example does
    example.calibrate(images, model)
    if method == "qronos":
        example.apply_qronos(model, images)
    else:
        example.apply_gptq(images, model, act_order=True)
    example.apply_bias_correction(images, model)
    return model


inputs, widths, algorithm = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
report_module(inputs, lambda: quantize(inputs, widths, algorithm))
