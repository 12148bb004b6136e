"""ConvNeXtV2-A on ImageNet from scratch, by the recipe of version 1.

* Paper: ConvNeXt V2, https://arxiv.org/abs/2301.00808
* Command: ``openlab train configs/classification/convnext/convnext_v2_atto_300e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .convnext_tiny_300e_imagenet import *

model.backbone.version = 2
model.backbone.size = 'atto'
model.backbone.drop_path = 0.1
