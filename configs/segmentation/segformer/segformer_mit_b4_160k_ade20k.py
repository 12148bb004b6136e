"""SegFormer-B4 on ADE20K, 160,000 iterations at batch 16 over all processes.

* Paper: SegFormer, https://arxiv.org/abs/2105.15203
* Command: ``openlab train configs/segmentation/segformer/segformer_mit_b4_160k_ade20k.py --gpus 4``
"""

from mmengine.config import read_base

with read_base():
    from .segformer_mit_b0_160k_ade20k import *

model.backbone.size = 'b4'
model.head.channels = 768
