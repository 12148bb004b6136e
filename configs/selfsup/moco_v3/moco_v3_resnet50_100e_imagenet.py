"""MoCo v3 with ResNet-50 on ImageNet, 100 epochs of 4096 images a step over all processes.

* Paper: An Empirical Study of Training Self-Supervised Vision Transformers,
  https://arxiv.org/abs/2104.02057, section 3
* Command: ``openlab train configs/selfsup/moco_v3/moco_v3_resnet50_100e_imagenet.py --gpus 16``
"""

from mmengine.config import read_base

from openlab.backbones.resnet import ResNet
from openlab.engine.optimizers.lars import LARS

with read_base():
    from .moco_v3_vit_small_300e_imagenet import *

model.backbone = dict(type=ResNet, depth=50)
model.projector.num_layers = 2
model.predictor.last_norm = None
model.temperature = 1.0
model.freeze_patch_embed = False

crop_scale = (0.2, 1.0)
max_epochs = 100
warmup_epochs = 10
optim_wrapper.optimizer = dict(type=LARS, lr=9.6, momentum=0.9, weight_decay=1e-6)
