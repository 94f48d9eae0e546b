"""MCT's gradient-based rounding of `float.pt`, which it calls GPTQ, with all of its settings but widths and epochs at their defaults.

Its default target has widths of 8 bits and powers of two as ranges of activations; only the widths differ here.
"""

import torchvision_names  # type: ignore[import-not-found]  # noqa: F401

# isort: split
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_compression_toolkit as mct  # type: ignore[import-not-found]
import numpy as np
from model_compression_toolkit.core import BitWidthConfig, CoreConfig  # type: ignore[import-not-found]
from model_compression_toolkit.core.common.matchers.node_matcher import (  # type: ignore[import-not-found]
    BaseNodeMatcher,
)
from model_compression_toolkit.core.pytorch.reader.node_holders import (  # type: ignore[import-not-found]
    DummyPlaceHolder,
)
from model_compression_toolkit.target_platform_capabilities.constants import (  # type: ignore[import-not-found]
    KERNEL_ATTR,
)
from reporting import calibration  # type: ignore[import-not-found]
from torch import nn
from torch_modules import END_BITS, float_network, report_module  # type: ignore[import-not-found]

AT_ONCE = 32


class Node(BaseNodeMatcher):
    """Finds the nodes of some type whose attributes have some values."""

    def __init__(self, kind: type, **attributes: Any) -> None:
        self.kind, self.attributes = kind, attributes

    def apply(self, node: Any) -> bool:
        """Return whether a node is such a one."""
        values = node.framework_attr
        return node.type is self.kind and self.attributes.items() <= values.items()


FIRST, LAST = Node(nn.Conv2d, in_channels=1), Node(nn.Linear)
WITH_END_BITS = (Node(DummyPlaceHolder), Node(nn.AdaptiveAvgPool2d), LAST)
"""The images, the features and the answer, whose widths are those of the first and the last layer."""


def capabilities(weight_bits: int, activation_bits: int) -> Any:
    """Return MCT's default target with the widths asked for and, to choose by hand, those of the ends."""
    target = mct.get_target_platform_capabilities()

    def with_widths(options: Any) -> Any:
        if options is None:
            return None
        base = options.base_config or options.quantization_configurations[0]
        choices = [
            base.clone_and_edit(
                attr_to_edit={KERNEL_ATTR: {"weights_n_bits": weights}},
                activation_n_bits=activations,
                supported_input_activation_n_bits=tuple({activation_bits, END_BITS}),
            )
            for weights in dict.fromkeys((weight_bits, END_BITS))
            for activations in dict.fromkeys((activation_bits, END_BITS))
        ]
        if KERNEL_ATTR not in base.attr_weights_configs_mapping:
            choices = choices[: len({activation_bits, END_BITS})]
        return options.model_copy(
            update={"quantization_configurations": tuple(choices), "base_config": choices[0]}
        )

    sets = [
        one.model_copy(update={"qc_options": with_widths(one.qc_options)})
        for one in target.operator_set
    ]
    return target.model_copy(
        update={"operator_set": tuple(sets), "default_qco": with_widths(target.default_qco)}
    )


def quantize(folder: Path, bits: str, epochs: int) -> nn.Module:
    """Return the quantized network."""
    weight_bits, activation_bits = map(int, re.findall(r"\d+", bits))
    images = calibration(folder, AT_ONCE)

    def batches() -> Iterator[list[np.ndarray]]:
        for part in images:
            yield [part]

    widths = BitWidthConfig()
    widths.set_manual_weights_bit_width([FIRST, LAST], END_BITS, "weight")
    widths.set_manual_activation_bit_width(list(WITH_END_BITS), END_BITS)
    network: nn.Module
    network, _ = mct.gptq.pytorch_gradient_post_training_quantization(
        float_network(folder),
        batches,
        core_config=CoreConfig(bit_width_config=widths),
        gptq_config=mct.gptq.get_pytorch_gptq_config(n_epochs=epochs),
        target_platform_capabilities=capabilities(weight_bits, activation_bits),
    )
    return network


inputs, asked, passes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
report_module(inputs, lambda: quantize(inputs, asked, passes))
