"""MobileNetV2 on CIFAR-10; the stem keeps the resolution of its small images.

* Paper: MobileNetV2, https://arxiv.org/abs/1801.04381
* Command: ``openlab train configs/classification/mobilenet_v2/mobilenet_v2_200e_cifar10.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.cifar10 import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    backbone=dict(type=MobileNetV2, stem_stride=1),
    head=dict(type=LinearHead, num_classes=10, dropout=0.2))

max_epochs = 200
optim_wrapper.optimizer.weight_decay = 5e-4
