"""FastViT-T8 on ImageNet at 256 px.

* Paper: FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization,
  https://arxiv.org/abs/2303.14189
* Command: ``openlab train configs/classification/fastvit/fastvit_t8_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.fastvit import FastViT
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=FastViT, size='t8', output='expanded'),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

train_dataloader.dataset.pipeline[1].size = 256
val_dataloader.dataset.pipeline[1].shorter = 284
val_dataloader.dataset.pipeline[2].size = 256
