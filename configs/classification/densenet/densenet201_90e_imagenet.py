"""DenseNet-201 on ImageNet, 90 epochs at batch 256 over all processes.

* Paper: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
* Command: ``openlab train configs/classification/densenet/densenet201_90e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .densenet121_90e_imagenet import *

model.backbone.depth = 201
