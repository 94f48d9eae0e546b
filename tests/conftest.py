"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

from jaxtyping import install_import_hook

install_import_hook(
    ["mrecg.calibration", "mrecg.data", "mrecg.quantization", "mrecg.reconstruction", "mrecg.zoo"],
    "typechecker.check",
)
