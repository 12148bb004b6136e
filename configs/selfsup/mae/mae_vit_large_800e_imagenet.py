"""MAE with ViT-L/16 on ImageNet, 800 epochs of 4096 images a step over all processes.

* Paper: Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377,
  table 8
* Command: ``openlab train configs/selfsup/mae/mae_vit_large_800e_imagenet.py --gpus 64``
"""

from mmengine.config import read_base

with read_base():
    from .mae_vit_base_800e_imagenet import *

model.backbone.size = 'large'
