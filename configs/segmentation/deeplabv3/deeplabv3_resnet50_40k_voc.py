"""DeepLabV3 with a dilated ResNet-50 on Pascal VOC 2012, 40,000 iterations at batch 16.

* Paper: Rethinking Atrous Convolution, https://arxiv.org/abs/1706.05587
* Command: ``openlab train configs/segmentation/deeplabv3/deeplabv3_resnet50_40k_voc.py --gpus 4``
"""

from mmengine.config import read_base

from openlab.algorithms.segmentation.deeplabv3 import DeepLabV3, DeepLabV3Head
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.fcn_head import FCNHead

with read_base():
    from ..._base_.datasets.voc_segmentation import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_poly_iters import *

model = dict(
    type=DeepLabV3,
    preprocessor=dict(type=ImagePreprocessor, mean=[123.675, 116.28, 103.53],
                      std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=50, output_stride=8, out_stages=(4, 5)),
    head=dict(type=DeepLabV3Head, num_classes=num_classes),
    auxiliary_head=dict(type=FCNHead, num_classes=num_classes, in_index=-2))

auto_scale_lr = dict(base_batch_size=16)
