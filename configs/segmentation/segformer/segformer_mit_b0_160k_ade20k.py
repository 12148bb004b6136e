"""SegFormer-B0 on ADE20K, 160,000 iterations at batch 16.

* Paper: SegFormer, https://arxiv.org/abs/2105.15203
* Command: ``openlab train configs/segmentation/segformer/segformer_mit_b0_160k_ade20k.py --gpus 4``
"""

from mmengine.config import read_base

from openlab.algorithms.segmentation.segformer import SegFormer, SegFormerHead
from openlab.backbones.mit import MixTransformer
from openlab.data.preprocessors import ImagePreprocessor

with read_base():
    from ..._base_.datasets.ade20k import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_poly_iters import *

model = dict(
    type=SegFormer,
    preprocessor=dict(type=ImagePreprocessor, mean=[123.675, 116.28, 103.53],
                      std=[58.395, 57.12, 57.375]),
    backbone=dict(type=MixTransformer, size='b0', out_stages=(2, 3, 4, 5)),
    head=dict(type=SegFormerHead, num_classes=num_classes, channels=256))

auto_scale_lr = dict(base_batch_size=16)
