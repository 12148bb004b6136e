"""A small Mask2Former on digit scenes: ten digits as things, the background as stuff.

One network answers all three tasks: panoptic quality, average precision of masks and boxes, and
the mean IoU of classes are measured on the same predictions. The data are made on first use.

* Command: ``openlab train configs/quickstart/panoptic.py``
"""

from mmengine.config import read_base
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.segmentation.mask2former import (
    Mask2Former,
    Mask2FormerHead,
    PixelDecoder,
    SegmentLimits,
)
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.optimizers.muon import Muon
from openlab.engine.schedulers import LinearWarmup
from openlab.metrics.coco import CocoMetric
from openlab.metrics.panoptic import PanopticQuality
from openlab.metrics.segmentation import SegmentationMetric

with read_base():
    from .._base_.datasets.digit_scenes_panoptic_128 import *
    from .._base_.runtime import *

model = dict(
    type=Mask2Former,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3,
                      channels_last=True),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1, 2, 1), base_channels=32,
                  stem='deep', zero_init_last=False, center_images=True,
                  out_stages=(2, 3, 4, 5)),
    pixel_decoder=dict(type=PixelDecoder, embed_dim=64, mask_dim=64, num_heads=4, num_layers=1,
                       hidden_dim=128),
    head=dict(
        type=Mask2FormerHead, num_classes=num_things + num_stuff, task='panoptic',
        stuff=list(range(num_things, num_things + num_stuff)),
        predicts=['panoptic', 'instance', 'semantic'], num_queries=20, embed_dim=64, num_heads=4,
        num_layers=3, hidden_dim=128, num_points=1024,
        limits=dict(type=SegmentLimits, score=0.5, overlap=0.6, detections=20)))

max_epochs = 12
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=6)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=Muon, lr=3e-3, weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
    paramwise=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={
        name: dict(orthogonal=False) for name in ('query_', 'level_embed', 'cls_out')}))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100)]
val_evaluator = [
    dict(type=PanopticQuality), dict(type=CocoMetric, kinds=['mask']),
    dict(type=SegmentationMetric)]
default_hooks.checkpoint.save_best = 'panoptic/PQ'
