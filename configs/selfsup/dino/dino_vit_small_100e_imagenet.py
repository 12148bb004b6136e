"""DINO with ViT-S/16 on ImageNet, 100 epochs of 512 images a step over all processes.

* Paper: Emerging Properties in Self-Supervised Vision Transformers,
  https://arxiv.org/abs/2104.14294; numbers as in the authors' training for 8 GPUs
* Command: ``openlab train configs/selfsup/dino/dino_vit_small_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.selfsup.dino import DINO, DINOHead
from openlab.backbones.vit import VisionTransformer
from openlab.engine.hooks.freeze import FreezeHook
from openlab.layers.ramp import CosineRamp

with read_base():
    from ..._base_.datasets.imagenet_without_labels import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=DINO,
    preprocessor=preprocessor,
    backbone=dict(type=VisionTransformer, size='small', drop_path=0.1),
    head=dict(type=DINOHead, num_prototypes=65536),
    momentum=dict(type=CosineRamp, start=0.996, end=1.0),
    teacher_temperature=0.04)

large_scale, small_scale, num_small = (0.4, 1.0), (0.05, 0.4), 8
flip = dict(type=RandomFlip)
jitter = dict(type=ColorJitter, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, prob=0.8)
gray = dict(type=RandomGrayscale, prob=0.2)
train_dataloader.batch_size = 64
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=MultiView, counts=[1, 1, num_small], pipelines=[
        [dict(type=RandomResizedCrop, size=image_size, scale=large_scale, interpolation='bicubic'),
         flip, jitter, gray,
         dict(type=GaussianBlur, prob=1.0)],
        [dict(type=RandomResizedCrop, size=image_size, scale=large_scale, interpolation='bicubic'),
         flip, jitter, gray,
         dict(type=GaussianBlur, prob=0.1),
         dict(type=Solarize, prob=0.2)],
        [dict(type=RandomResizedCrop, size=96, scale=small_scale, interpolation='bicubic'),
         flip, jitter, gray,
         dict(type=GaussianBlur, prob=0.5)]]),
    dict(type=PackInputs),
]

max_epochs = 100
warmup_epochs = 10
train_cfg.val_interval = 10
optim_wrapper.optimizer = dict(type=AdamW, lr=1e-3, weight_decay=0.04)
optim_wrapper.clip_grad.max_norm = 3.0
param_scheduler[1].eta_min = 1e-6
param_scheduler[1].convert_to_iter_based = True
param_scheduler.append(dict(type=CosineAnnealingLR, param='weight_decay', by_epoch=True,
                            convert_to_iter_based=True, eta_min=0.4))
custom_hooks = [dict(type=FreezeHook, patterns=['student_head.last'], unfreeze_epoch=1)]
auto_scale_lr = dict(base_batch_size=512)
