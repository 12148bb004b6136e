"""A U-Net on a small ResNet finds handwritten digits, pixel by pixel.

* Command: ``openlab train configs/quickstart/segmentation.py``
* Data: digit scenes, which are made on first use (about a minute)
"""

from mmengine.config import read_base
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.segmentation.fcn import FCN
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.affine import RandomAffine
from openlab.data.transforms.color import Invert
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.optimizers.muon import Muon
from openlab.engine.schedulers import LinearWarmup
from openlab.heads.fcn_head import FCNHead
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.necks.unet import UNetDecoder

with read_base():
    from .._base_.datasets.digit_scenes_segmentation import *
    from .._base_.runtime import *

image_size = 128
train_dataloader.batch_size = 32
train_dataloader.num_workers = 1
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=Resize, size=image_size, interpolation='area'),
    dict(type=RandomAffine, degrees=12, translate=(0.1, 0.1), scale=(0.75, 1.35), fill=125),
    dict(type=Invert, prob=0.5),
    dict(type=PackInputs),
]
val_dataloader.batch_size = 50
val_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=KeepOriginalMap),
    dict(type=Resize, size=image_size, interpolation='area'),
    dict(type=PackInputs, extra_keys=('original_map',)),
]
test_dataloader = val_dataloader

model = dict(
    type=FCN,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3,
                      channels_last=True),
    backbone=dict(type=ResNet, block='basic', num_blocks=(2, 2, 2), base_channels=64,
                  stem='deep', stem_channels=32, zero_init_last=False, center_images=True,
                  out_stages=(1, 2, 3, 4)),
    neck=dict(type=UNetDecoder, num_convs=1, upsample='deconv'),
    head=dict(type=FCNHead, num_classes=num_classes, in_index=0, num_convs=0, dropout=0.0,
              loss=dict(type=CrossEntropyLoss, class_weight=[0.3] + [1.0] * 10)))

max_epochs = 14
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=7)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=Muon, lr=6e-3, weight_decay=0.05),
    paramwise=dict(norm_decay_mult=0.0, custom_keys={'head.out': dict(orthogonal=False)}))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, begin=0, end=60),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=60)]
