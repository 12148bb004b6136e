"""RepVGG-B1g4 on ImageNet, 120 epochs at batch 256 over all processes.

* Paper: RepVGG, https://arxiv.org/abs/2101.03697
* Command: ``openlab train configs/classification/repvgg/repvgg_b1g4_120e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .repvgg_a0_120e_imagenet import *

model.backbone.size = 'b1g4'
