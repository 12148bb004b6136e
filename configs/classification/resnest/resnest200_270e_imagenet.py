"""ResNeSt-200 on ImageNet, 270 epochs at batch 2048 over all processes.

* Paper: ResNeSt: Split-Attention Networks, https://arxiv.org/abs/2004.08955
* Command: ``openlab train configs/classification/resnest/resnest200_270e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnest import ResNeSt
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
    backbone=dict(type=ResNeSt, depth=200),
    head=dict(type=LinearHead, num_classes=1000, dropout=0.2))

max_epochs = 270
auto_scale_lr = dict(base_batch_size=2048)
warmup_epochs = 5
optim_wrapper.optimizer.lr = 0.8
optim_wrapper.optimizer.weight_decay = 1e-4
