"""MViTv2-L on ImageNet.

* Paper: MViTv2: Improved Multiscale Vision Transformers for Classification and Detection,
  https://arxiv.org/abs/2112.01526
* Command: ``openlab train configs/classification/mvit/mvit_v2_large_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .mvit_v2_tiny_300e_imagenet import *

model.backbone.size = 'large'
model.backbone.drop_path = 0.5
