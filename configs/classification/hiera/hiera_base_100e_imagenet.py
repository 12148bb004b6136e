"""Hiera-B on ImageNet at 224 px, to be tuned from weights of masked pre-training.

* Paper: Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles,
  https://arxiv.org/abs/2306.00989
* Command: ``openlab train configs/classification/hiera/hiera_base_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.hiera import Hiera
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=Hiera, size='base', output='mean', drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 100
optim_wrapper.optimizer.lr = 2e-4
