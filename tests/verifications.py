"""What the verification of an exported file showed."""

from mrecg.export.findings import Verification

VERIFIED = Verification(
    file="m.onnx",
    images=1,
    top1_agreement=100.0,
    top1_agreement_ties_apart=100.0,
    largest_difference=0.0,
    largest_distance=0.5,
    different_codes=0,
    codes=1,
    output_resolution=1.0,
    integer_layers=(),
    float_layers=(),
    file_bytes=1,
    ideal_bytes=1,
    runtimes=(),
)
