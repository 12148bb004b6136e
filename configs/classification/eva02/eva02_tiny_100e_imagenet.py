"""EVA-02-Ti/14 on ImageNet at 224 px, to be tuned from pre-trained weights.

* Paper: EVA-02, https://arxiv.org/abs/2303.11331
* Command: ``openlab train configs/classification/eva02/eva02_tiny_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.eva02 import EVA02
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=EVA02, size='tiny', image_size=224, drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 100
optim_wrapper.optimizer.lr = 2e-4
