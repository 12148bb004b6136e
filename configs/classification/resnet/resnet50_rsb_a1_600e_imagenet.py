"""ResNet-50, procedure A1 of "ResNet strikes back": 600 epochs, stronger mixup, less decay.

Table 2 smooths labels by 0.1, but before targets are cut at 0.2, which undoes it.

* Paper: ResNet strikes back, https://arxiv.org/abs/2110.00476, table 2
* Command: ``openlab train configs/classification/resnet/resnet50_rsb_a1_600e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .resnet50_rsb_a2_300e_imagenet import *

max_epochs = 600
mixup_alpha = 0.2
optim_wrapper.optimizer.weight_decay = 0.01
