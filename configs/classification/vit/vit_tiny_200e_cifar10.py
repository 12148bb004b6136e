"""ViT-Ti with patches of 4 px on CIFAR-10.

* Paper: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
* Command: ``openlab train configs/classification/vit/vit_tiny_200e_cifar10.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.cifar10 import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    backbone=dict(type=VisionTransformer, size='tiny', patch_size=4, image_size=32, drop_path=0.1),
    head=dict(type=LinearHead, num_classes=10,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 200
