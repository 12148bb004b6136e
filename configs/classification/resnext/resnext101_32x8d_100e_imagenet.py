"""ResNeXt-101 32x8d on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Aggregated Residual Transformations, https://arxiv.org/abs/1611.05431
* Command: ``openlab train configs/classification/resnext/resnext101_32x8d_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from ..resnet.resnet50_100e_imagenet import *

model.backbone.depth = 101
model.backbone.groups = 32
model.backbone.width_per_group = 8
