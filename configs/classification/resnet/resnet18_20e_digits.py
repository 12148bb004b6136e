"""ResNet-18 with a stem for small images, on the handwritten digits of scikit-learn.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/resnet/resnet18_20e_digits.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.digits import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[77.8] * 3, std=[95.9] * 3),
    backbone=dict(type=ResNet, depth=18, stem='conv3'),
    head=dict(type=LinearHead, num_classes=10))

max_epochs = 20
optim_wrapper.optimizer.lr = 0.05
optim_wrapper.optimizer.weight_decay = 5e-4
