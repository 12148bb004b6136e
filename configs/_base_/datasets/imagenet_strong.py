"""ImageNet-1k as transformers are trained on it: RandAugment, erasing, mixup and cutmix.

Touvron et al., DeiT, https://arxiv.org/abs/2012.12877, table 9, without repeated augmentation,
which is a matter of the sampler; Swin and ConvNeXt use the same. Evaluation resizes the shorter
side to 256 px (bicubic) and crops 224 px.
"""

from mmengine.config import read_base

from openlab.data.preprocessors import CutMix, ImagePreprocessor, MixUp, RandomBatchAugment
from openlab.data.transforms.erasing import RandomErasing
from openlab.data.transforms.policies import RandAugment

with read_base():
    from .imagenet import *

num_classes = 1000
preprocessor = dict(
    type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    batch_augments=[dict(type=RandomBatchAugment, augments=[
        dict(type=MixUp, num_classes=num_classes, alpha=0.8),
        dict(type=CutMix, num_classes=num_classes, alpha=1.0)])])
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage, fast=True),
    dict(type=RandomResizedCrop, size=image_size, interpolation='bicubic'),
    dict(type=RandomFlip),
    dict(type=RandAugment, magnitude=9, num_levels=11, magnitude_std=0.5, prob=0.5,
         interpolation='bicubic'),
    dict(type=RandomErasing, prob=0.25, mode='noise'),
    dict(type=PackInputs),
]
val_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, shorter=image_size * 8 // 7, interpolation='bicubic'),
    dict(type=CenterCrop, size=image_size),
    dict(type=PackInputs),
]
auto_scale_lr = dict(base_batch_size=1024)
