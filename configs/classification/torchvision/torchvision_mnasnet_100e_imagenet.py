"""MnasNet of torchvision on ImageNet; another name is another network of torchvision.

* Network: https://arxiv.org/abs/1807.11626, as torchvision builds it
* Command: ``openlab train configs/classification/torchvision/torchvision_mnasnet_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.torchvision_backbone import TorchvisionBackbone
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
    backbone=dict(type=TorchvisionBackbone, name='mnasnet1_0'),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 100
warmup_epochs = 5
auto_scale_lr = dict(base_batch_size=256)
