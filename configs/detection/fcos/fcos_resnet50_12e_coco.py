"""FCOS on COCO, 12 epochs of 16 images over all processes.

* Paper: FCOS: Fully Convolutional One-Stage Object Detection, https://arxiv.org/abs/1904.01355
* Command: ``openlab train configs/detection/fcos/fcos_resnet50_12e_coco.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.detection.fcos import FCOS, FCOSHead
from openlab.layers.norm import FrozenBatchNorm2d
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.hooks.freeze import FreezeHook
from openlab.necks.fpn import FPN

with read_base():
    from ..._base_.datasets.coco_detection import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_12e_detection import *

model = dict(
    type=FCOS,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        pad_divisor=32),
    backbone=dict(type=ResNet, depth=50, out_stages=(3, 4, 5),
                  norm=dict(type=FrozenBatchNorm2d)),
    neck=dict(type=FPN, out_channels=256, extra='p6p7', extra_from='p5'),
    head=dict(type=FCOSHead, num_classes=num_classes))

load_from = dict(source='torchvision://resnet50', allow_missing=[r'^neck\.', r'^head\.'])
custom_hooks = [dict(type=FreezeHook, num_stages=2)]
optim_wrapper.optimizer.lr = 0.01
