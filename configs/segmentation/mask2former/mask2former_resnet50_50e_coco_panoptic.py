"""Mask2Former for panoptic segmentation on COCO, 50 epochs of 16 images over all processes.

The paper crops 1024 px out of images at 0.1 to 2 times their size; here the shorter edge is 800.

* Paper: Masked-attention Mask Transformer for Universal Image Segmentation,
  https://arxiv.org/abs/2112.01527
* Command (with ``--gpus 8``):
  ``openlab train configs/segmentation/mask2former/mask2former_resnet50_50e_coco_panoptic.py``
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from openlab.algorithms.segmentation.mask2former import (
    Mask2Former,
    Mask2FormerHead,
    PixelDecoder,
)
from openlab.layers.norm import FrozenBatchNorm2d
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper

with read_base():
    from ..._base_.datasets.coco_panoptic import *
    from ..._base_.runtime import *

model = dict(
    type=Mask2Former,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        pad_divisor=32),
    backbone=dict(type=ResNet, depth=50, out_stages=(2, 3, 4, 5),
                  norm=dict(type=FrozenBatchNorm2d)),
    pixel_decoder=dict(type=PixelDecoder),
    head=dict(type=Mask2FormerHead, num_classes=num_things + num_stuff, task='panoptic',
              stuff=list(range(num_things, num_things + num_stuff))))

load_from = dict(source='torchvision://resnet50', allow_missing=[r'^pixel_decoder\.', r'^head\.'])
train_cfg = dict(type=EpochTrainLoop, max_epochs=50)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    paramwise=dict(norm_decay_mult=0.0, custom_keys={
        'backbone': dict(lr_mult=0.1),
        'query_feat': dict(decay_mult=0.0), 'query_position': dict(decay_mult=0.0),
        'level_embed': dict(decay_mult=0.0)}))
param_scheduler = [dict(type=MultiStepLR, by_epoch=True, milestones=[44, 48], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=16)
