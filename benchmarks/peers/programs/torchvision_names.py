"""Declare the operators of torchvision that its import asks for: its build in the registry has them for CUDA alone.

A program imports this module before a peer that imports torchvision; none of the two peers here runs an operator of it.
"""

import torch

_names = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _names.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
