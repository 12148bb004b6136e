"""TinyViT-21M on ImageNet.

* Paper: TinyViT: Fast Pretraining Distillation for Small Vision Transformers,
  https://arxiv.org/abs/2207.10666
* Command: ``openlab train configs/classification/tinyvit/tinyvit_21m_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .tinyvit_5m_300e_imagenet import *

model.backbone.size = '21m'
model.backbone.drop_path = 0.2
