"""SE-ResNet-50 on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
* Command: ``openlab train configs/classification/seresnet/seresnet50_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from ..resnet.resnet50_100e_imagenet import *

model.backbone.se_reduction = 16
