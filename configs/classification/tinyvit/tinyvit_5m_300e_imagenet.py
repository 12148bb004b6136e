"""TinyViT-5M on ImageNet.

* Paper: TinyViT: Fast Pretraining Distillation for Small Vision Transformers,
  https://arxiv.org/abs/2207.10666
* Command: ``openlab train configs/classification/tinyvit/tinyvit_5m_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.tinyvit import TinyViT
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=TinyViT, size='5m', output='mean', drop_path=0.0),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

warmup_epochs = 20
