"""Wide ResNet-50-2 on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Wide Residual Networks, https://arxiv.org/abs/1605.07146
* Command: ``openlab train configs/classification/resnet/wide_resnet50_2_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .resnet50_100e_imagenet import *

model.backbone.width_per_group = 128
