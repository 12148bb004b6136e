"""RetinaNet on COCO in its second form: all norms trained, group norm in the heads.

* Paper: RetinaNet, https://arxiv.org/abs/1708.02002
* What is new in it: https://arxiv.org/abs/2111.11429 (appendix A)
* Command:
  ``openlab train configs/detection/retinanet/retinanet_v2_resnet50_12e_coco.py --gpus 8``
* Published weights: ``openlab infer torchvision/retinanet_resnet50_fpn_v2.COCO_V1 IMAGE``
"""

from mmengine.config import read_base
from torch.nn import BatchNorm2d

with read_base():
    from .retinanet_resnet50_12e_coco import *

model.backbone.norm = dict(type=BatchNorm2d)
model.head.norm_groups = 32
model.head.box_loss = 'giou'
custom_hooks = []
