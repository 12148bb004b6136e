"""ResNet-50 with a stem for small images, on CIFAR-10.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnet50_200e_cifar10.py``
"""

from mmengine.config import read_base

with read_base():
    from .resnet18_200e_cifar10 import *

model.backbone.depth = 50
