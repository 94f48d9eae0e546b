"""ONNX Q/DQ: `files` writes, `verification` runs and compares."""

from mrecg.export.onnx import packages as packages
