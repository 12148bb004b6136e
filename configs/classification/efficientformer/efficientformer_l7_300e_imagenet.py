"""EfficientFormer-L7 on ImageNet; both classifiers learn from the labels.

* Paper: EfficientFormer: Vision Transformers at MobileNet Speed, https://arxiv.org/abs/2206.01191
* Command:
  ``openlab train configs/classification/efficientformer/efficientformer_l7_300e_imagenet.py``
"""

from mmengine.config import read_base

with read_base():
    from .efficientformer_l1_300e_imagenet import *

model.backbone.size = 'l7'
model.backbone.drop_path = 0.2
