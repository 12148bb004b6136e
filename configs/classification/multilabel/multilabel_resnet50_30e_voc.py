"""ResNet-50 with binary cross entropy on VOC 2007, 448 px, from ImageNet weights.

* Paper: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* Command: ``openlab train configs/classification/multilabel/multilabel_resnet50_30e_voc.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.multi_label_head import MultiLabelHead

with read_base():
    from ..._base_.datasets.voc_multilabel import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=50),
    head=dict(type=MultiLabelHead, num_classes=num_classes))

load_from = dict(source='torchvision://resnet50', replace_head=True)
max_epochs = 30
optim_wrapper.optimizer.lr = 0.01
optim_wrapper.paramwise = dict(custom_keys={'backbone': dict(lr_mult=0.1)})
auto_scale_lr = dict(base_batch_size=16)
default_hooks.checkpoint.save_best = 'multilabel/mAP'
