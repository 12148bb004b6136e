"""SE-ResNeXt-50 32x4d on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
* Command: ``openlab train configs/classification/seresnet/seresnext50_32x4d_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from ..resnet.resnet50_100e_imagenet import *

model.backbone.se_reduction = 16
model.backbone.groups = 32
model.backbone.width_per_group = 4
