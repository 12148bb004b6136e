"""ViT-Ti/16 on ImageNet as DeiT trains it: batch 1024, mixup, cutmix, RandAugment, erasing.

* Paper: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
* Training: DeiT, https://arxiv.org/abs/2012.12877, table 9, without repeated augmentation
* Command: ``openlab train configs/classification/vit/vit_tiny_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.data.preprocessors import CutMix, ImagePreprocessor, MixUp, RandomBatchAugment
from openlab.data.transforms.policies import RandAugment
from openlab.data.transforms.erasing import RandomErasing
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

num_classes = 1000
model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        batch_augments=[dict(type=RandomBatchAugment, augments=[
            dict(type=MixUp, num_classes=num_classes, alpha=0.8),
            dict(type=CutMix, num_classes=num_classes, alpha=1.0)])]),
    backbone=dict(type=VisionTransformer, size='tiny', patch_size=16, drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=RandomResizedCrop, size=image_size, interpolation='bicubic'),
    dict(type=RandomFlip),
    dict(type=RandAugment, magnitude_std=0.5),
    dict(type=RandomErasing, prob=0.25),
    dict(type=PackInputs),
]
auto_scale_lr = dict(base_batch_size=1024)
