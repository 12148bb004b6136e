"""A small ResNet under the decoder of U-Net finds handwritten digits, pixel by pixel.

* Command: ``openlab train configs/quickstart/segmentation.py``
* Data: digit scenes, which are made on first use (about a minute)
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.segmentation.segformer import SegFormer, SegFormerHead
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.necks.unet import UNetDecoder

with read_base():
    from .._base_.datasets.digit_scenes_segmentation import *
    from .._base_.runtime import *

image_size = 128
train_dataloader.batch_size = 8
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
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 2, 2, 2), base_channels=16,
                  stem='conv3s2', zero_init_last=False, center_images=True,
                  out_stages=(2, 3, 4, 5)),
    neck=dict(type=UNetDecoder, num_convs=1),
    head=dict(type=SegFormerHead, num_classes=num_classes, channels=32, dropout=0.0,
              loss=dict(type=CrossEntropyLoss, class_weight=[0.3] + [1.0] * 10)))

max_epochs = 8
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=3e-3, weight_decay=0.02))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100)]
