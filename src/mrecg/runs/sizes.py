"""Bytes of a quantized model, and of the same in float."""

from collections.abc import Container, Mapping, Sequence

from torch import Tensor

from mrecg.records.record import ModelSize, QuantizerRecord

__all__ = ["code_grids", "model_size", "weight_path"]

_FLOAT_BITS = 32


def code_grids(
    quantizers: Sequence[QuantizerRecord], tensors: Container[str]
) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest code of every tensor of codes: a weight's, and its zero points if it has some."""
    found: dict[str, tuple[int, int]] = {}
    for quantizer in quantizers:
        if quantizer.kind == "weight":
            for buffer in ("codes", "zero_point"):
                name = f"{weight_path(quantizer)}.{buffer}"
                if name in tensors:
                    found[name] = (quantizer.low, quantizer.high)
    return found


def model_size(quantizers: Sequence[QuantizerRecord], tensors: Mapping[str, Tensor]) -> ModelSize:
    """Return the bytes of the tensors of a finished model.

    Args:
        quantizers: its records.
        tensors: its parameters and buffers by name.
    """
    grids = code_grids(quantizers, tensors)
    owned = tuple(f"{weight_path(one)}." for one in quantizers if one.kind == "weight")
    quantized = in_float = 0
    for name, tensor in tensors.items():
        low, high = grids.get(name, (0, 2**_FLOAT_BITS - 1))
        quantized += -(-tensor.numel() * (high - low).bit_length() // 8)
        if name.endswith(".codes") or not name.startswith(owned):
            in_float += tensor.numel() * _FLOAT_BITS // 8
    return ModelSize(float_bytes=in_float, quantized_bytes=quantized)


def weight_path(quantizer: QuantizerRecord) -> str:
    """Return the path of the module that holds the codes of a weight."""
    owner, _, attribute = quantizer.tensor.rpartition(".")
    return f"{owner}." * bool(owner) + f"quantized_{attribute}"
