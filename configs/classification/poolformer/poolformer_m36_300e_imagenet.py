"""PoolFormer-M36 on ImageNet, 300 epochs at batch 256 over all processes.

* Paper: MetaFormer is Actually What You Need for Vision, https://arxiv.org/abs/2111.11418
* Command: ``openlab train configs/classification/poolformer/poolformer_m36_300e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .poolformer_s12_300e_imagenet import *

model.backbone.size = 'm36'
model.backbone.drop_path = 0.3
