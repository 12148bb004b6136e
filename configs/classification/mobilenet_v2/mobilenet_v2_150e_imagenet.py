"""MobileNetV2 on ImageNet, 150 epochs at batch 256 over all processes.

* Paper: MobileNetV2, https://arxiv.org/abs/1801.04381
* Command: ``openlab train configs/classification/mobilenet_v2/mobilenet_v2_150e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=MobileNetV2),
    head=dict(type=LinearHead, num_classes=1000, dropout=0.2))

max_epochs = 150
warmup_epochs = 5
optim_wrapper.optimizer.lr = 0.05
optim_wrapper.optimizer.weight_decay = 4e-5
auto_scale_lr = dict(base_batch_size=256)
