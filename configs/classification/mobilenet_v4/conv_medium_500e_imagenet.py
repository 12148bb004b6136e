"""MobileNetV4-Conv-M on ImageNet, 500 epochs at batch 4096 over all processes.

* Paper: MobileNetV4: Universal Models for the Mobile Ecosystem, https://arxiv.org/abs/2404.10518
* Command: ``openlab train configs/classification/mobilenet_v4/conv_medium_500e_imagenet.py``
"""

from mmengine.config import read_base
from torch.nn import BatchNorm1d

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.mobilenet_v4 import MobileNetV4
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.mlp_head import MLPHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=MobileNetV4, size='conv_medium', drop_path=0.075),
    head=dict(
        type=MLPHead, num_classes=1000, hidden_channels=(1280,), norm=dict(type=BatchNorm1d),
        dropout=0.2))

max_epochs = 500
auto_scale_lr = dict(base_batch_size=4096)
warmup_epochs = 5
optim_wrapper.optimizer.lr = 4e-3
optim_wrapper.optimizer.weight_decay = 0.1
