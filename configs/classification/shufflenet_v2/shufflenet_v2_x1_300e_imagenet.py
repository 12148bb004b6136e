"""ShuffleNetV2 1x on ImageNet, 300 epochs at batch 256 over all processes.

* Paper: ShuffleNet V2, https://arxiv.org/abs/1807.11164
* Command: ``openlab train configs/classification/shufflenet_v2/shufflenet_v2_x1_300e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.shufflenet_v2 import ShuffleNetV2
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
    backbone=dict(type=ShuffleNetV2, width=1.0),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 300
auto_scale_lr = dict(base_batch_size=256)
optim_wrapper.optimizer.lr = 0.5
optim_wrapper.optimizer.weight_decay = 4e-5
