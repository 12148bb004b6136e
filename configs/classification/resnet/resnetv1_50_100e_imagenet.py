"""ResNet-50 as first published (v1) on ImageNet: bottlenecks stride in their first convolution.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnetv1_50_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .resnet50_100e_imagenet import *

model.backbone.stride_in_conv1 = True
