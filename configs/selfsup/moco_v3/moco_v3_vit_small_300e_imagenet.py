"""MoCo v3 with ViT-S/16 on ImageNet, 300 epochs of 4096 images a step over all processes.

* Paper: An Empirical Study of Training Self-Supervised Vision Transformers,
  https://arxiv.org/abs/2104.02057, sections 4 and 5 (12 heads instead of DeiT's 6)
* Command: ``openlab train configs/selfsup/moco_v3/moco_v3_vit_small_300e_imagenet.py --gpus 16``
"""

from mmengine.config import read_base

from openlab.algorithms.selfsup.moco_v3 import MoCoV3
from openlab.backbones.vit import VisionTransformer
from openlab.heads.projector import Projector
from openlab.layers.ramp import CosineRamp

with read_base():
    from ..._base_.datasets.imagenet_without_labels import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=MoCoV3,
    preprocessor=preprocessor,
    backbone=dict(type=VisionTransformer, size='small', num_heads=12, with_fixed_position=True),
    projector=dict(type=Projector, num_layers=3, hidden_channels=4096, out_channels=256,
                   last_norm='plain'),
    predictor=dict(type=Projector, num_layers=2, hidden_channels=4096, out_channels=256,
                   last_norm='plain'),
    momentum=dict(type=CosineRamp, start=0.99, end=1.0),
    temperature=0.2,
    freeze_patch_embed=True)

crop_scale = (0.08, 1.0)
jitter = dict(type=ColorJitter, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, prob=0.8)
train_dataloader.batch_size = 256
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=MultiView, pipelines=[
        [dict(type=RandomResizedCrop, size=image_size, scale=crop_scale),
         jitter,
         dict(type=RandomGrayscale, prob=0.2),
         dict(type=GaussianBlur, prob=1.0),
         dict(type=RandomFlip)],
        [dict(type=RandomResizedCrop, size=image_size, scale=crop_scale),
         jitter,
         dict(type=RandomGrayscale, prob=0.2),
         dict(type=GaussianBlur, prob=0.1),
         dict(type=Solarize, prob=0.2),
         dict(type=RandomFlip)]]),
    dict(type=PackInputs),
]

sync_bn = True
max_epochs = 300
warmup_epochs = 40
train_cfg.val_interval = 10
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=2.4e-3, weight_decay=0.1))
param_scheduler[1].eta_min = 0.0
param_scheduler[1].convert_to_iter_based = True
auto_scale_lr = dict(base_batch_size=4096)
