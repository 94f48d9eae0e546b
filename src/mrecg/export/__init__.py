"""Files that other programs run, and the proof that they compute what was simulated.

`onnx` needs the packages of `mrecg[onnx]`; `pt2` needs nothing but torch.
"""
