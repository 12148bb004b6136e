"""LeViT-384 on ImageNet; both classifiers learn from the labels.

* Paper: LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference,
  https://arxiv.org/abs/2104.01136
* Command: ``openlab train configs/classification/levit/levit_384_1000e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .levit_256_1000e_imagenet import *

model.backbone.size = '384'
model.backbone.drop_path = 0.1
