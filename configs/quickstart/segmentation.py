"""A U-Net on a small ResNet finds handwritten digits, pixel by pixel.

* Command: ``openlab train configs/quickstart/segmentation.py``
* Data: digit scenes, which are made on first use (about a minute)
"""

from mmengine.config import read_base
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.segmentation.fcn import FCN
from openlab.backbones.resnet import ResNet
from openlab.data.datasets.multi_image import MultiImageDataset
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.class_mix import ClassMix
from openlab.data.transforms.crop import RandomResizedCrop
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.optimizers.muon import Muon
from openlab.engine.schedulers import LinearWarmup
from openlab.heads.fcn_head import FCNHead
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.losses.dice import DiceLoss
from openlab.necks.unet import UNetDecoder

with read_base():
    from .._base_.datasets.digit_scenes_segmentation import *
    from .._base_.runtime import *

crop_size = 128
test_size = 184  # digits of about the size that they have in the crops
train_dataloader.batch_size = 16
train_dataloader.num_workers = 2  # they only get what the network leaves them of the cores
# Digits that cover each other are what is hard, and 2,000 scenes hold too few such pairs.
train_dataloader.dataset = dict(
    type=MultiImageDataset,
    dataset=dict(
        type=SegmentationDataset,
        img_dir='images/train',
        mask_dir='semantic/train',
        data_root=data_root,
        classes=classes,
        palette=palette,
        make=make,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=RandomResizedCrop, size=crop_size, scale=(0.38, 0.72), ratio=(0.9, 1.11),
                 backend='cv2'),
        ]),
    pipeline=[
        dict(type=ClassMix, share=1.0, keep_out=(0,), min_visible=0.6),
        dict(type=ClassMix, share=1.0, keep_out=(0,), min_visible=0.6),
        dict(type=PackInputs),
    ])
val_dataloader.batch_size = 50
val_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=KeepOriginalMap),
    dict(type=Resize, size=test_size, interpolation='area'),
    dict(type=PackInputs, extra_keys=('original_map',)),
]
test_dataloader = val_dataloader

model = dict(
    type=FCN,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.0] * 3, std=[68.0] * 3,
                      channels_last=True),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 2, 2), base_channels=48,
                  stem='deep', stem_channels=16, zero_init_last=False, center_images=True,
                  out_stages=(1, 2, 3, 4)),
    neck=dict(type=UNetDecoder, num_convs=1, upsample='deconv'),
    head=dict(type=FCNHead, num_classes=num_classes, in_index=0, num_convs=0, dropout=0.0,
              loss=dict(type=CrossEntropyLoss, class_weight=[0.8] + [1.0] * 10),
              extra_losses=dict(dice=dict(type=DiceLoss))),
    loss_step=2)

max_epochs = 19
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    type=OptimWrapper, precision='auto',
    optimizer=dict(type=Muon, lr=1.6e-2, weight_decay=0.25, momentum=0.9),
    paramwise=dict(norm_decay_mult=0.0, custom_keys={'head.out': dict(orthogonal=False)}))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, begin=0, end=60),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=60)]
# For `openlab test --tta`. A mirrored digit is no digit.
tta = dict(flip=False, scales=(0.78, 0.89, 1.0, 1.11, 1.22), divisor=16)
