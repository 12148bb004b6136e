"""ResNet-50 on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnet50_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .resnet18_100e_imagenet import *

model.backbone.depth = 50
