"""CSRA on ResNet-101, VOC 2007, 448 px: one head, lambda 0.1, the head learns ten times faster.

* Paper: Residual Attention, https://arxiv.org/abs/2108.02456, section 4.1
* Command: ``openlab train configs/classification/csra/csra_resnet101_30e_voc.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.csra_head import CSRAHead

with read_base():
    from ..._base_.datasets.voc_multilabel import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=101),
    head=dict(type=CSRAHead, num_classes=num_classes, num_heads=1, residual=0.1))

load_from = dict(
    source='torchvision://resnet101', allow_missing=[r'^head\.'])
train_dataloader.batch_size = 64
max_epochs = 30
optim_wrapper.optimizer.lr = 0.1
optim_wrapper.paramwise = dict(custom_keys={'backbone': dict(lr_mult=0.1)})
auto_scale_lr = dict(base_batch_size=64)
default_hooks.checkpoint.save_best = 'multilabel/mAP'
