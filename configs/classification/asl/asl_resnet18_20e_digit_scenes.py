"""Which digits are in the scene? A small residual network from scratch, asymmetric loss.

* Paper: Asymmetric Loss For Multi-Label Classification, https://arxiv.org/abs/2009.14119
* Command: ``openlab train configs/classification/asl/asl_resnet18_20e_digit_scenes.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.multi_label_head import MultiLabelHead
from openlab.losses.multi_label import AsymmetricLoss

with read_base():
    from ..._base_.datasets.digit_scenes_multilabel import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3),
    backbone=dict(type=ResNet, depth=18, base_channels=32),
    head=dict(type=MultiLabelHead, num_classes=num_classes, loss=dict(type=AsymmetricLoss)))

max_epochs = 20
optim_wrapper.optimizer.lr = 0.02
default_hooks.checkpoint.save_best = 'multilabel/mAP'
