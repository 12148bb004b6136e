"""HRNet-W18-Small on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Deep High-Resolution Representation Learning, https://arxiv.org/abs/1908.07919
* Command: ``openlab train configs/classification/hrnet/hrnet_w18_small_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.hrnet import HRMerge, HRNet
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
    backbone=dict(type=HRNet, size='w18_small'),
    neck=dict(type=HRMerge),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 100
auto_scale_lr = dict(base_batch_size=256)
