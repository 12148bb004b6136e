"""VGG-16 with batch normalisation on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Very Deep Convolutional Networks, https://arxiv.org/abs/1409.1556
* Command: ``openlab train configs/classification/vgg/vgg16_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vgg import VGG
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.mlp_head import MLPHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=VGG, depth=16),
    head=dict(type=MLPHead, num_classes=1000, hidden_channels=(4096, 4096), grid=7, dropout=0.5))

max_epochs = 100
auto_scale_lr = dict(base_batch_size=256)
optim_wrapper.optimizer.lr = 0.01
