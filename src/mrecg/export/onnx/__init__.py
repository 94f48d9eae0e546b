"""ONNX Q/DQ: `files` writes, `verification` runs and compares."""

from mrecg.export.requirements import require

require("onnx", "onnxscript", "onnxruntime")
