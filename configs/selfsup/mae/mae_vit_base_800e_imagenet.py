"""MAE with ViT-B/16 on ImageNet, 800 epochs of 4096 images a step over all processes.

* Paper: Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377,
  table 8
* Command: ``openlab train configs/selfsup/mae/mae_vit_base_800e_imagenet.py --gpus 64``
"""

from mmengine.config import read_base

from openlab.algorithms.selfsup.mae import MAE, MAEDecoder
from openlab.backbones.vit import VisionTransformer

with read_base():
    from ..._base_.datasets.imagenet_without_labels import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=MAE,
    preprocessor=preprocessor,
    backbone=dict(type=VisionTransformer, size='base', with_fixed_position=True),
    decoder=dict(type=MAEDecoder, embed_dim=512, depth=8, num_heads=16),
    mask_ratio=0.75)

train_dataloader.batch_size = 64
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=RandomResizedCrop, size=image_size, scale=(0.2, 1.0), interpolation='bicubic'),
    dict(type=RandomFlip),
    dict(type=PackInputs),
]

max_epochs = 800
warmup_epochs = 40
train_cfg.val_interval = 20
optim_wrapper.optimizer = dict(type=AdamW, lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05)
optim_wrapper.clip_grad = None
param_scheduler[1].eta_min = 0.0
param_scheduler[1].convert_to_iter_based = True
auto_scale_lr = dict(base_batch_size=4096)
