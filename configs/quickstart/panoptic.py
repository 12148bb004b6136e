"""A small Mask2Former on digit scenes: ten digits as things, the background as stuff.

One network answers all three tasks: panoptic quality, average precision of masks and boxes, and
the mean IoU of classes are measured on the same predictions. The data are made on first use.

* Command: ``openlab train configs/quickstart/panoptic.py``
"""

from mmengine.config import read_base
from torch.optim import AdamW

from openlab.algorithms.segmentation.mask2former import (
    Mask2Former,
    Mask2FormerHead,
    PixelDecoder,
    SegmentLimits,
)
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.metrics.coco import CocoMetric
from openlab.metrics.panoptic import PanopticQuality
from openlab.metrics.segmentation import SegmentationMetric

with read_base():
    from .._base_.datasets.digit_scenes_panoptic import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_cosine import *

model = dict(
    type=Mask2Former,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3, pad_divisor=32),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1, 1, 1), base_channels=24,
                  out_stages=(2, 3, 4, 5)),
    pixel_decoder=dict(type=PixelDecoder, embed_dim=64, mask_dim=64, num_heads=4, num_layers=1,
                       hidden_dim=128),
    head=dict(
        type=Mask2FormerHead, num_classes=num_things + num_stuff, task='panoptic',
        stuff=list(range(num_things, num_things + num_stuff)),
        predicts=['panoptic', 'instance', 'semantic'], num_queries=20, embed_dim=64, num_heads=4,
        num_layers=3, hidden_dim=128, num_points=1024,
        limits=dict(type=SegmentLimits, score=0.5, overlap=0.6, detections=20)))

max_epochs = 5
warmup_epochs = 1
train_dataloader.batch_size = 8
optim_wrapper.optimizer.lr = 1e-3
val_evaluator = [
    dict(type=PanopticQuality), dict(type=CocoMetric, kinds=['mask']),
    dict(type=SegmentationMetric)]
default_hooks.checkpoint.save_best = 'panoptic/PQ'
