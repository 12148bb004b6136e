"""VAN-B3 on ImageNet, 300 epochs at batch 1024 over all processes.

* Paper: Visual Attention Network, https://arxiv.org/abs/2202.09741
* Command: ``openlab train configs/classification/van/van_b3_300e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.van import VAN
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=VAN, size='b3', drop_path=0.3),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 300
auto_scale_lr = dict(base_batch_size=1024)
