"""EfficientNetV2-S on ImageNet, 350 epochs at batch 256 over all processes.

* Paper: EfficientNetV2, https://arxiv.org/abs/2104.00298
* Command: ``openlab train configs/classification/efficientnet/efficientnet_v2_s_350e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .efficientnet_b0_350e_imagenet import *

model.backbone.size = 'v2_s'
image_size = 384
