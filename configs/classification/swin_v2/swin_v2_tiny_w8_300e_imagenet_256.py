"""Swin-T of version 2 with windows of 8 on ImageNet at 256 px.

* Paper: Swin Transformer V2, https://arxiv.org/abs/2111.09883
* Command: ``openlab train configs/classification/swin_v2/swin_v2_tiny_w8_300e_imagenet_256.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.swin import SwinTransformer
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=SwinTransformer, size='tiny', version=2, window_size=8, drop_path=0.2),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

warmup_epochs = 20
train_dataloader.dataset.pipeline[1].size = 256
val_dataloader.dataset.pipeline[1].shorter = 292
val_dataloader.dataset.pipeline[2].size = 256
