"""`export_onnx`: a quantized model as a file for ONNX Runtime and its like."""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mrecg.errors import ExportError
from mrecg.export.integer import (
    divide_images_as_simulated,
    integer_biases,
    move_quantizers_to_layers,
)
from mrecg.export.layouts import Layout, lay_out_weights, weight_grids
from mrecg.export.translation import translate
from mrecg.runs import QuantizedModel

OPSET, OPSET_OF_2_BITS = 21, 25


def build(quantized: QuantizedModel, layout: Layout, opset: int) -> ir.Model:
    grids = weight_grids(quantized.program)
    model = translate(quantized.program, opset)
    graph = model.graph
    shifts = lay_out_weights(graph, grids, layout)
    move_quantizers_to_layers(graph)
    integer_biases(graph, shifts)
    divide_images_as_simulated(graph)
    RemoveUnusedNodesPass()(model)
    return model
