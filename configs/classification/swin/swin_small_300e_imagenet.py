"""Swin-S on ImageNet: batch 1024, 20 epochs of warm-up.

* Paper: Swin Transformer, https://arxiv.org/abs/2103.14030, appendix A2.1
* Command: ``openlab train configs/classification/swin/swin_small_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .swin_tiny_300e_imagenet import *

model.backbone.size = 'small'
model.backbone.drop_path = 0.3
