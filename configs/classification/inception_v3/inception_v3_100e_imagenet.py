"""Inception v3 on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Rethinking the Inception Architecture, https://arxiv.org/abs/1512.00567
* Command: ``openlab train configs/classification/inception_v3/inception_v3_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.inception_v3 import InceptionV3
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(type=InceptionV3),
    head=dict(type=LinearHead, num_classes=1000, dropout=0.5))

max_epochs = 100
auto_scale_lr = dict(base_batch_size=256)
train_dataloader.dataset.pipeline[1].size = 299
val_dataloader.dataset.pipeline[1].shorter = 342
val_dataloader.dataset.pipeline[2].size = 299
