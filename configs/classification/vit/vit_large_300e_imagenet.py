"""ViT-L/16 on ImageNet as DeiT trains it.

* Paper: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
* Training: DeiT, https://arxiv.org/abs/2012.12877, table 9
* Command: ``openlab train configs/classification/vit/vit_large_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .vit_tiny_300e_imagenet import *

model.backbone.size = 'large'
model.backbone.drop_path = 0.3
