"""DeepLabV3+ with ResNet-50 on Cityscapes, 40,000 iterations at batch 8; images seen by windows.

* Paper: Encoder-Decoder with Atrous Separable Convolution, https://arxiv.org/abs/1802.02611
* Command, for batches of that size on four GPUs:
  ``openlab train configs/segmentation/deeplabv3plus/deeplabv3plus_resnet50_40k_cityscapes.py
  --gpus 4``
"""

from mmengine.config import read_base

from openlab.algorithms.segmentation.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusHead
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.fcn_head import FCNHead

with read_base():
    from ..._base_.datasets.cityscapes import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_poly_iters import *

model = dict(
    type=DeepLabV3Plus,
    preprocessor=dict(type=ImagePreprocessor, mean=[123.675, 116.28, 103.53],
                      std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=50, output_stride=16, out_stages=(2, 4, 5)),
    head=dict(type=DeepLabV3PlusHead, num_classes=num_classes),
    auxiliary_head=dict(type=FCNHead, num_classes=num_classes, in_index=-2),
    window=(512, 1024),
    stride=(256, 512))

auto_scale_lr = dict(base_batch_size=8)
