"""EfficientFormer-L1 on ImageNet; both classifiers learn from the labels.

* Paper: EfficientFormer: Vision Transformers at MobileNet Speed, https://arxiv.org/abs/2206.01191
* Command:
  ``openlab train configs/classification/efficientformer/efficientformer_l1_300e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.efficientformer import EfficientFormer
from openlab.heads.distilled_head import DistilledHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=EfficientFormer, size='l1'),
    head=dict(type=DistilledHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))
