"""Mask R-CNN on COCO, 12 epochs of 16 images over all processes.

* Paper: Mask R-CNN, https://arxiv.org/abs/1703.06870
* Command: ``openlab train configs/detection/mask_rcnn/mask_rcnn_resnet50_12e_coco.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.detection.faster_rcnn import BoxHead, RPNHead
from openlab.algorithms.detection.mask_rcnn import MaskHead, MaskRCNN
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
    type=MaskRCNN,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        pad_divisor=32),
    backbone=dict(type=ResNet, depth=50, out_stages=(2, 3, 4, 5),
                  norm=dict(type=FrozenBatchNorm2d)),
    neck=dict(type=FPN, out_channels=256, extra='pool'),
    rpn_head=dict(type=RPNHead),
    box_head=dict(type=BoxHead, num_classes=num_classes),
    mask_head=dict(type=MaskHead, num_classes=num_classes))

with_masks = True
val_evaluator[0].kinds = ['box', 'mask']

load_from = dict(source='torchvision://resnet50', allow_missing=[r'^neck\.', r'^\w+_head\.'])
custom_hooks = [dict(type=FreezeHook, num_stages=2)]
