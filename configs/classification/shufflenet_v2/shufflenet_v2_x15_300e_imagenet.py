"""ShuffleNetV2 1.5x on ImageNet, 300 epochs at batch 256 over all processes.

* Paper: ShuffleNet V2, https://arxiv.org/abs/1807.11164
* Command: ``openlab train configs/classification/shufflenet_v2/shufflenet_v2_x15_300e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .shufflenet_v2_x1_300e_imagenet import *

model.backbone.width = 1.5
