"""DenseNet-121 on ImageNet, 90 epochs at batch 256 over all processes.

* Paper: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
* Command: ``openlab train configs/classification/densenet/densenet121_90e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.densenet import DenseNet
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
    backbone=dict(type=DenseNet, depth=121),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 90
auto_scale_lr = dict(base_batch_size=256)
