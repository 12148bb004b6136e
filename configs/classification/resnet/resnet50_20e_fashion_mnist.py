"""ResNet-50 with a stem for small images, on Fashion-MNIST.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnet50_20e_fashion_mnist.py``
"""

from mmengine.config import read_base

with read_base():
    from .resnet18_20e_fashion_mnist import *

model.backbone.depth = 50
