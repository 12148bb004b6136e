"""MViTv2-T on ImageNet.

* Paper: MViTv2: Improved Multiscale Vision Transformers for Classification and Detection,
  https://arxiv.org/abs/2112.01526
* Command: ``openlab train configs/classification/mvit/mvit_v2_tiny_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.mvit import MViT
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=MViT, size='tiny', drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

warmup_epochs = 70
optim_wrapper.optimizer.lr = 2.5e-4
auto_scale_lr = dict(base_batch_size=256)
