"""Hiera-H on ImageNet at 224 px, to be tuned from weights of masked pre-training.

* Paper: Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles,
  https://arxiv.org/abs/2306.00989
* Command: ``openlab train configs/classification/hiera/hiera_huge_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .hiera_base_100e_imagenet import *

model.backbone.size = 'huge'
model.backbone.drop_path = 0.3
