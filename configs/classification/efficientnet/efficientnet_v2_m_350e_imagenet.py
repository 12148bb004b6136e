"""EfficientNetV2-M on ImageNet, 350 epochs at batch 256 over all processes.

* Paper: EfficientNetV2, https://arxiv.org/abs/2104.00298
* Command: ``openlab train configs/classification/efficientnet/efficientnet_v2_m_350e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .efficientnet_b0_350e_imagenet import *

model.backbone.size = 'v2_m'
image_size = 480
