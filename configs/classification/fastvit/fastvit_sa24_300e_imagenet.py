"""FastViT-SA24 on ImageNet at 256 px.

* Paper: FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization,
  https://arxiv.org/abs/2303.14189
* Command: ``openlab train configs/classification/fastvit/fastvit_sa24_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .fastvit_t8_300e_imagenet import *

model.backbone.size = 'sa24'
model.backbone.drop_path = 0.1
