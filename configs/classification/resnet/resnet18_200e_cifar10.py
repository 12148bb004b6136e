"""ResNet-18 with a stem for small images, on CIFAR-10.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnet18_200e_cifar10.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.cifar10 import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    backbone=dict(type=ResNet, depth=18, stem='conv3'),
    head=dict(type=LinearHead, num_classes=10))

max_epochs = 200
optim_wrapper.optimizer.weight_decay = 5e-4
