"""GhostNet of timm on ImageNet; another name is another network of timm.

* Network: https://arxiv.org/abs/1911.11907 (``pip install timm``)
* Command: ``openlab train configs/classification/timm/timm_ghostnet_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.timm_backbone import TimmBackbone
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
    backbone=dict(type=TimmBackbone, name='ghostnet_100', output='pooled'),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 100
warmup_epochs = 5
auto_scale_lr = dict(base_batch_size=256)
