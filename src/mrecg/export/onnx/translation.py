"""Translate a finished program to an ONNX graph with explicit QuantizeLinear and DequantizeLinear nodes.

Only the float operators are torch.onnx's business. Quantizers are written here, from the numbers in our own program.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from onnxscript.optimizer import fold_constants
from torch import fx
from torch.export import ExportedProgram

from mrecg.errors import ExportError, first_line
from mrecg.export.onnx.graphs import WORDS, container_bounds, container_of

__all__ = ["source_module", "translate"]

_quantized = torch.ops.quantized_decomposed
_attention_operator = torch.ops.aten.scaled_dot_product_attention.default


def translate(program: ExportedProgram, opset: int) -> ir.Model:
    """Return an ONNX model of `program`; nodes and weights are named after the original modules.

    Raises:
        ExportError: an operator has no counterpart in ONNX.
    """
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        _quantized.quantize_per_tensor.default: _quantize,
        _quantized.dequantize_per_tensor.default: _dequantize,
        _quantized.dequantize_per_channel.default: _dequantize_channels,
    }
    if any(_is_attention_of_another_rank(node) for node in program.graph.nodes):
        table[_attention_operator] = _attention
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
            exported = torch.onnx.export(
                program,
                opset_version=opset,
                custom_translation_table=table,
                optimize=True,
                verbose=False,
                dynamo=True,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"The model cannot be written as ONNX: {_reason(error)}.") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert exported is not None
    _fold_casts(exported.model)
    _name_nodes(exported.model)
    return exported.model


def source_module(node: ir.Node) -> str:
    """Return the path of the original module whose forward made `node`; `""` is the model itself."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if not scopes:
        return ""
    *modules, _ = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    return modules[-1] if modules else ""


def _quantize(x: Any, scale: float, zero_point: int, low: int, high: int, dtype: int) -> Any:
    """Quantize to codes that saturate at their own range, also where their container is wider."""
    container = container_of(low, high)
    codes = op.QuantizeLinear(x, _number(scale), _number(zero_point, container))
    if (low, high) == container_bounds(container):
        return codes
    if container in WORDS:
        return op.Clip(codes, _number(low, container), _number(high, container))
    wide = ir.DataType.INT32  # ONNX Runtime 1.32 clips no integers of 16 bits
    clipped = op.Clip(op.Cast(codes, to=wide), _number(low, wide), _number(high, wide))
    return op.Cast(clipped, to=container)


def _dequantize(
    codes: Any, scale: float, zero_point: int, low: int, high: int, dtype: int, out_dtype: int = -1
) -> Any:
    return op.DequantizeLinear(codes, _number(scale), _number(zero_point, container_of(low, high)))


def _dequantize_channels(
    codes: Any,
    scales: Any,
    zero_points: Any,
    axis: int,
    low: int,
    high: int,
    dtype: int,
    out_dtype: int = -1,
) -> Any:
    return op.DequantizeLinear(codes, scales, op.Cast(zero_points, to=dtype), axis=axis)


def _number(value: float, dtype: int = ir.DataType.FLOAT) -> Any:
    array = ir.tensor(value, dtype=ir.DataType(dtype))
    return op.Constant(value=ir.to_proto(array))


def _is_attention_of_another_rank(node: fx.Node) -> bool:
    """Return whether attention has another number of axes than four (images, heads, tokens, channels), which torch.onnx 2.13 needs."""
    return node.target is _attention_operator and node.all_input_nodes[0].meta["val"].ndim != 4


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Compute softmax(q · kᵀ · scale + mask) · v over the last two axes, with any number of axes before them."""
    if is_causal or enable_gqa or (attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL):
        raise ValueError(
            f"attention of {len(query.shape)} axes must not be causal, grouped or masked by booleans"
        )
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    axes = list(range(len(key.shape)))
    transposed = op.Transpose(key, perm=[*axes[:-2], axes[-1], axes[-2]])
    scores = op.MatMul(op.Mul(query, _number(factor)), transposed)
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def _fold_casts(model: ir.Model) -> None:
    """Fold casts of constants of any size: torch.onnx folds small ones only, and classes and their zero points are many."""
    fold_constants(
        model,
        output_size_limit=sys.maxsize,
        should_fold=lambda node: node.op_type == "Cast",
    )


def _name_nodes(model: ir.Model) -> None:
    """Name nodes after modules: `features.3.conv.1/Conv` instead of `node_conv2d_7`."""
    taken: set[str] = set()
    for node in model.graph:
        base = "/".join(part for part in (source_module(node), node.op_type) if part)
        name, again = base, 1
        while name in taken:
            again += 1
            name = f"{base}_{again}"
        taken.add(name)
        node.name = name


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
