"""Packages that files for ONNX Runtime need: imported first, so that a missing one is named and how to get it."""

from mrecg.export.requirements import require

require("onnx", "onnxscript", "onnxruntime")
