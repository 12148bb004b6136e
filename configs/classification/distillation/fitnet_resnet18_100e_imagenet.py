"""ResNet-18 whose third stage is led by that of ResNet-50, through a projection, on ImageNet.

* Paper: FitNets: Hints for Thin Deep Nets, https://arxiv.org/abs/1412.6550
* Command: ``openlab train configs/classification/distillation/fitnet_resnet18_100e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.distillation import FeaturePair

with read_base():
    from .kd_resnet18_100e_imagenet import *

model.teacher.backbone.depth = 50
model.teacher_weights = 'torchvision://resnet50'
model.features = [dict(type=FeaturePair, student='backbone.stages.2', teacher='backbone.stages.2',
                       in_channels=256, out_channels=1024, loss_weight=0.5)]
