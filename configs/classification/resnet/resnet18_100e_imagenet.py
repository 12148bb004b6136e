"""ResNet-18 on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnet18_100e_imagenet.py --gpus 2``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=18),
    head=dict(type=LinearHead, num_classes=1000,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

warmup_epochs = 5
auto_scale_lr = dict(base_batch_size=256)
