"""ConvNeXt-S on ImageNet: batch 4096, 20 epochs of warm-up, averaged weights, no clipping.

* Paper: A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545, table 5
* Command: ``openlab train configs/classification/convnext/convnext_small_300e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .convnext_tiny_300e_imagenet import *

model.backbone.size = 'small'
model.backbone.drop_path = 0.4
