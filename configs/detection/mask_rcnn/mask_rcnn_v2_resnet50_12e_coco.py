"""Mask R-CNN on COCO in its second form: all norms trained, four convolutions before the boxes.

* Paper: Mask R-CNN, https://arxiv.org/abs/1703.06870
* What is new in it: https://arxiv.org/abs/2111.11429 (appendix A)
* Command:
  ``openlab train configs/detection/mask_rcnn/mask_rcnn_v2_resnet50_12e_coco.py --gpus 8``
* Published weights: ``openlab infer torchvision/maskrcnn_resnet50_fpn_v2.COCO_V1 IMAGE``
"""

from mmengine.config import read_base
from torch.nn import BatchNorm2d

with read_base():
    from .mask_rcnn_resnet50_12e_coco import *

model.backbone.norm = dict(type=BatchNorm2d)
model.neck.norm = dict(type=BatchNorm2d)
model.rpn_head.num_convs = 2
model.box_head.num_convs = 4
model.box_head.num_hidden = 1
model.box_head.norm = dict(type=BatchNorm2d)
model.mask_head.norm = dict(type=BatchNorm2d)
custom_hooks = []
