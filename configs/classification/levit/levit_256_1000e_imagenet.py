"""LeViT-256 on ImageNet; both classifiers learn from the labels.

* Paper: LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference,
  https://arxiv.org/abs/2104.01136
* Command: ``openlab train configs/classification/levit/levit_256_1000e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base
from torch.nn import BatchNorm1d

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.levit import LeViT
from openlab.heads.distilled_head import DistilledHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=LeViT, size='256'),
    head=dict(type=DistilledHead, num_classes=num_classes, norm=dict(type=BatchNorm1d),
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 1000
optim_wrapper.optimizer.lr = 5e-4
optim_wrapper.optimizer.weight_decay = 0.025
