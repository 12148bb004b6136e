"""RepVGG-A0 on ImageNet, 120 epochs at batch 256 over all processes.

* Paper: RepVGG, https://arxiv.org/abs/2101.03697
* Command: ``openlab train configs/classification/repvgg/repvgg_a0_120e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.repvgg import RepVGG
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
    backbone=dict(type=RepVGG, size='a0'),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 120
auto_scale_lr = dict(base_batch_size=256)
