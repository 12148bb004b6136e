"""Swin-T on ImageNet: batch 1024, 20 epochs of warm-up.

* Paper: Swin Transformer, https://arxiv.org/abs/2103.14030, appendix A2.1
* Command: ``openlab train configs/classification/swin/swin_tiny_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.swin import SwinTransformer
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=SwinTransformer, size='tiny', drop_path=0.2),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

warmup_epochs = 20
param_scheduler[1].eta_min = 5e-6
