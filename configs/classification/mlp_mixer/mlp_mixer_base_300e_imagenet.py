"""MLP-Mixer-B/16 on ImageNet.

* Paper: MLP-Mixer, https://arxiv.org/abs/2105.01601
* Command: ``openlab train configs/classification/mlp_mixer/mlp_mixer_base_300e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.mlp_mixer import MLPMixer
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=MLPMixer, size='base', patch_size=16, drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))
