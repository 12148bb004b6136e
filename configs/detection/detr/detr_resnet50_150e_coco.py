"""DETR on COCO, 150 epochs of 64 images over all processes, a tenth of the rate after the 100th.

The paper's main results take 300 and 500 epochs.

* Paper: End-to-End Object Detection with Transformers, https://arxiv.org/abs/2005.12872
* Command: ``openlab train configs/detection/detr/detr_resnet50_150e_coco.py --gpus 8``
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from openlab.algorithms.detection.detr import DETR, DETRHead
from openlab.layers.norm import FrozenBatchNorm2d
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.hooks.freeze import FreezeHook
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper

with read_base():
    from ..._base_.datasets.coco_detection import *
    from ..._base_.runtime import *

model = dict(
    type=DETR,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=50, out_stages=(5,),
                  norm=dict(type=FrozenBatchNorm2d)),
    head=dict(type=DETRHead, num_classes=num_classes))

load_from = dict(source='torchvision://resnet50', allow_missing=[r'^head\.'])
custom_hooks = [dict(type=FreezeHook, num_stages=2)]
train_dataloader.batch_size = 8
train_cfg = dict(type=EpochTrainLoop, max_epochs=150)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))
param_scheduler = [dict(type=MultiStepLR, by_epoch=True, milestones=[100], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=64)
