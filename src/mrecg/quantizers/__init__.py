"""Numbers: integer grids, ranges, learned rounding, learned activation scales, losses."""

# Registers the operators `quantized_decomposed::*` that PT2E programs consist of; torchao imports it from there, too.
import torch.ao.quantization.fx._decomposed  # noqa: F401
