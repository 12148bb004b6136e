"""Res2Net-101 26w x 4s on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Res2Net, https://arxiv.org/abs/1904.01169
* Command: ``openlab train configs/classification/res2net/res2net101_26w_4s_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .res2net50_26w_4s_100e_imagenet import *

model.backbone.depth = 101
