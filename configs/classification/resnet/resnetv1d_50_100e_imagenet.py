"""ResNet-50-D on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Bag of Tricks, https://arxiv.org/abs/1812.01187
* Command: ``openlab train configs/classification/resnet/resnetv1d_50_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .resnet50_100e_imagenet import *

model.backbone.stem = 'deep'
model.backbone.avg_down = True
