"""EfficientNet-B0 on ImageNet, 350 epochs at batch 256 over all processes.

* Paper: EfficientNet, https://arxiv.org/abs/1905.11946
* Command: ``openlab train configs/classification/efficientnet/efficientnet_b0_350e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.efficientnet import EfficientNet
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
    backbone=dict(type=EfficientNet, size='b0', drop_path=0.2),
    head=dict(type=LinearHead, num_classes=1000, dropout=0.2))

max_epochs = 350
auto_scale_lr = dict(base_batch_size=256)
warmup_epochs = 5
optim_wrapper.optimizer.weight_decay = 1e-5
