"""MoCo v3 with ViT-B/16 on ImageNet, 300 epochs of 4096 images a step over all processes.

* Paper: An Empirical Study of Training Self-Supervised Vision Transformers,
  https://arxiv.org/abs/2104.02057, section 5
* Command: ``openlab train configs/selfsup/moco_v3/moco_v3_vit_base_300e_imagenet.py --gpus 32``
"""

from mmengine.config import read_base

with read_base():
    from .moco_v3_vit_small_300e_imagenet import *

model.backbone.size = 'base'
train_dataloader.batch_size = 128
