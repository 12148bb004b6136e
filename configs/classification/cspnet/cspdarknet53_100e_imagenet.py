"""CSPDarkNet-53 on ImageNet, 100 epochs at batch 256 over all processes.

* Paper: Cross Stage Partial Networks, https://arxiv.org/abs/1911.11929
* Command: ``openlab train configs/classification/cspnet/cspdarknet53_100e_imagenet.py``
"""

from mmengine.config import read_base
from torch.nn import LeakyReLU

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.cspnet import CSPNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead

with read_base():
    from ..._base_.datasets.imagenet import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=CSPNet, size='darknet53', act=dict(type=LeakyReLU)),
    head=dict(type=LinearHead, num_classes=1000))

max_epochs = 100
auto_scale_lr = dict(base_batch_size=256)
