"""FCOS with a thin residual network on digit scenes: real handwritten digits, no download.

* Command: ``openlab train configs/quickstart/detection.py``; makes its data on first use
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.detection.fcos import FCOS, FCOSHead
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup
from openlab.necks.fpn import FPN

with read_base():
    from .._base_.datasets.digit_scenes_detection import *
    from .._base_.runtime import *

model = dict(
    type=FCOS,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1, 1, 1), base_channels=24,
                  out_stages=(3, 4, 5)),
    neck=dict(type=FPN, out_channels=64),
    head=dict(type=FCOSHead, num_classes=num_classes, num_convs=2, strides=(8, 16, 32),
              range_factor=4.0))

image_size = 128
train_dataloader.num_workers = 1
train_dataloader.dataset.pipeline.insert(2, dict(type=Resize, size=image_size))
val_dataloader.dataset.pipeline.insert(2, dict(type=Resize, size=image_size))

max_epochs = 15
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, end=100),
    dict(type=CosineAnnealingLR, by_epoch=True, T_max=max_epochs, end=max_epochs)]
default_hooks.checkpoint.save_best = 'coco/box_AP50'
env = dict(num_threads=1)  # one core computes, the other one loads
