"""RegNetY400MF on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Designing Network Design Spaces, https://arxiv.org/abs/2003.13678
* Command: ``openlab train configs/classification/regnet/regnety_400mf_100e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .regnetx_400mf_100e_imagenet import *

model.backbone.size = 'y_400mf'
