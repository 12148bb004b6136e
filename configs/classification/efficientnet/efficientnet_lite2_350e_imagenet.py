"""EfficientNet-Lite2 on ImageNet, 350 epochs at batch 256 over all processes.

* Paper: EfficientNet, https://arxiv.org/abs/1905.11946
* Command: ``openlab train configs/classification/efficientnet/efficientnet_lite2_350e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .efficientnet_b0_350e_imagenet import *

model.backbone.size = 'lite2'
image_size = 260
