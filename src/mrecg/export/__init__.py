"""Files that other programs run, and the proof that they compute what was simulated.

`onnx` needs the packages of `mrecg[onnx]`; `program` needs nothing but torch.
"""
