"""DINO with ViT-S/16 on ImageNet, 800 epochs of 1024 images a step over all processes.

* Paper: Emerging Properties in Self-Supervised Vision Transformers,
  https://arxiv.org/abs/2104.14294; numbers as for the authors' published weights
* Command: ``openlab train configs/selfsup/dino/dino_vit_small_800e_imagenet.py --gpus 16``
"""

from mmengine.config import read_base

from openlab.layers.ramp import LinearRamp

with read_base():
    from .dino_vit_small_100e_imagenet import *

model.head.with_length = True
model.teacher_temperature = dict(type=LinearRamp, start=0.04, end=0.07, epochs=30)
large_scale, small_scale, num_small = (0.25, 1.0), (0.05, 0.25), 10
max_epochs = 800
optim_wrapper.optimizer.lr = 2e-3
optim_wrapper.clip_grad = None
param_scheduler[1].eta_min = 1e-5
auto_scale_lr.base_batch_size = 1024
