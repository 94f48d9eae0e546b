"""Networks from files of other programs: ONNX becomes a module that computes the same."""

from mrecg.export.requirements import require

require("onnx", "onnx2fx", "onnxruntime")
