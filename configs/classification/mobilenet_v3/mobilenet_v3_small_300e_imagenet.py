"""MobileNetV3-Small on ImageNet, 300 epochs at batch 256 over all processes.

* Paper: Searching for MobileNetV3, https://arxiv.org/abs/1905.02244
* Command: ``openlab train configs/classification/mobilenet_v3/mobilenet_v3_small_300e_imagenet.py``
"""

from mmengine.config import read_base
from torch.nn import Hardswish

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.mobilenet_v3 import MobileNetV3
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.mlp_head import MLPHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=MobileNetV3, size='small'),
    head=dict(
        type=MLPHead, num_classes=1000, hidden_channels=(1024,), act=dict(type=Hardswish),
        dropout=0.2))

max_epochs = 300
auto_scale_lr = dict(base_batch_size=256)
warmup_epochs = 5
optim_wrapper.optimizer.weight_decay = 1e-5
