"""ResNet-50, procedure A2 of "ResNet strikes back": LAMB, binary cross entropy, 300 epochs.

Targets of mixed images are 1 for every class that has more than 0.2 of the mixture.

* Paper: ResNet strikes back, https://arxiv.org/abs/2110.00476, table 2
* Command: ``openlab train configs/classification/resnet/resnet50_rsb_a2_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import CutMix, ImagePreprocessor, MixUp, RandomBatchAugment
from openlab.data.samplers import RepeatAugSampler
from openlab.data.transforms.policies import RandAugment
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.lamb_cosine import *

num_classes = 1000
mixup_alpha = 0.1
model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        batch_augments=[dict(type=RandomBatchAugment, augments=[
            dict(type=MixUp, num_classes=num_classes, alpha=mixup_alpha),
            dict(type=CutMix, num_classes=num_classes, alpha=1.0)])]),
    backbone=dict(type=ResNet, depth=50, drop_path=0.05),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=BinaryCrossEntropyLoss, target_threshold=0.2)))

train_size = 224
rand_magnitude = 7
train_dataloader.batch_size = 256
train_dataloader.sampler = dict(type=RepeatAugSampler, num_repeats=3)
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=RandomResizedCrop, size=train_size, interpolation='bicubic'),
    dict(type=RandomFlip),
    dict(type=RandAugment, magnitude=rand_magnitude, num_levels=11, magnitude_std=0.5, prob=0.5,
         interpolation='bicubic'),
    dict(type=PackInputs),
]
# 224 / 0.95
val_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, shorter=236, interpolation='bicubic'),
    dict(type=CenterCrop, size=224),
    dict(type=PackInputs),
]
