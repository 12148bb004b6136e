"""MViTv2-H with a class token on ImageNet, to be tuned from weights of ImageNet-21k.

* Paper: MViTv2: Improved Multiscale Vision Transformers for Classification and Detection,
  https://arxiv.org/abs/2112.01526
* Command: ``openlab train configs/classification/mvit/mvit_v2_huge_cls_30e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .mvit_v2_base_cls_30e_imagenet import *

model.backbone.size = 'huge'
model.backbone.drop_path = 0.6
