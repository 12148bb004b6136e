"""VGG-19 with batch normalisation on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Very Deep Convolutional Networks, https://arxiv.org/abs/1409.1556
* Command: ``openlab train configs/classification/vgg/vgg19_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .vgg16_100e_imagenet import *

model.backbone.depth = 19
