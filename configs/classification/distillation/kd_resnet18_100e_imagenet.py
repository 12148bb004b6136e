"""ResNet-18 that learns from the logits of ResNet-34 on ImageNet, at temperature 4.

* Paper: Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531
* Command: ``openlab train configs/classification/distillation/kd_resnet18_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.algorithms.distillation import Distillation
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead
from openlab.losses.distillation import SoftTargetLoss

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=Distillation,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    student=dict(
        type=ImageClassifier,
        backbone=dict(type=ResNet, depth=18),
        head=dict(type=LinearHead, num_classes=1000)),
    teacher=dict(
        type=ImageClassifier,
        backbone=dict(type=ResNet, depth=34),
        head=dict(type=LinearHead, num_classes=1000)),
    teacher_weights='torchvision://resnet34',
    logits=dict(type=SoftTargetLoss, temperature=4.0, loss_weight=0.9),
    truth_weight=0.1)

warmup_epochs = 5
auto_scale_lr = dict(base_batch_size=256)
