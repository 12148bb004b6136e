"""MobileNetV2 of half width under the head of SegFormer finds handwritten digits, pixel by pixel.

* Command: ``openlab train configs/quickstart/segmentation.py``
* Data: digit scenes, which are made on first use (about a minute)
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.segmentation.segformer import SegFormer, SegFormerHead
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup
from openlab.losses.dice import DiceLoss

with read_base():
    from .._base_.datasets.digit_scenes_segmentation import *
    from .._base_.runtime import *

image_size = 112
train_dataloader.num_workers = 1
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=Resize, size=image_size),
    dict(type=PackInputs),
]
val_dataloader.batch_size = 50
val_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=KeepOriginalMap),
    dict(type=Resize, size=image_size),
    dict(type=PackInputs, extra_keys=('original_map',)),
]
test_dataloader = val_dataloader

model = dict(
    type=SegFormer,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3,
                      channels_last=True),
    backbone=dict(type=MobileNetV2, width=0.5, last_channels=0, out_stages=(1, 2, 3, 4)),
    head=dict(type=SegFormerHead, num_classes=num_classes, channels=64, dropout=0.0,
              extra_losses=dict(dice=dict(type=DiceLoss))))

max_epochs = 14
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=7)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=4e-3, weight_decay=0.02))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100)]
