"""One backbone, two heads: FCOS finds digits by boxes, SegFormer's head pixel by pixel.

Both learn from the same digit scenes, real handwritten digits, in one run. The data are made on
first use.

* Command: ``openlab train configs/quickstart/multitask.py``
"""

from mmengine.config import read_base
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.detection.fcos import FCOS, FCOSHead
from openlab.algorithms.multi_task import MultiTask, SharedMaps
from openlab.algorithms.segmentation.segformer import SegFormer, SegFormerHead
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.optimizers.muon import Muon
from openlab.engine.schedulers import LinearWarmup
from openlab.losses.dice import DiceLoss
from openlab.metrics.coco import CocoMetric
from openlab.metrics.segmentation import SegmentationMetric
from openlab.necks.fpn import FPN

with read_base():
    from .._base_.datasets.digit_scenes_panoptic_128 import *
    from .._base_.runtime import *

model = dict(
    type=MultiTask,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3,
                      channels_last=True),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1, 2, 1), base_channels=32,
                  stem='deep', zero_init_last=False, center_images=True,
                  out_stages=(2, 3, 4, 5)),
    tasks=dict(
        detection=dict(
            type=FCOS,
            backbone=dict(type=SharedMaps, levels=(1, 2, 3)),
            neck=dict(type=FPN, out_channels=64),
            head=dict(type=FCOSHead, num_classes=num_things, num_convs=2, strides=(8, 16, 32),
                      range_factor=4.0)),
        segmentation=dict(
            type=SegFormer,
            backbone=dict(type=SharedMaps),
            head=dict(type=SegFormerHead, num_classes=num_things + num_stuff, channels=64,
                      dropout=0.0, extra_losses=dict(dice=dict(type=DiceLoss))))))

max_epochs = 12
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=6)
val_evaluator = [dict(type=CocoMetric, kinds=['box']), dict(type=SegmentationMetric)]
test_evaluator = val_evaluator
optim_wrapper = dict(
    type=OptimWrapper, precision='auto',
    optimizer=dict(type=Muon, lr=8e-3, weight_decay=0.1),
    clip_grad=dict(max_norm=10.0),
    paramwise=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={
        name: dict(orthogonal=False)
        for name in ('cls_out', 'box_out', 'centerness_out', 'segmentation.head.out')}))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100)]
default_hooks.checkpoint.save_best = 'coco/box_AP50'
