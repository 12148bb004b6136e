"""DeiT-Ti with a distillation token on ImageNet; both heads learn from the labels.

With a teacher: ``configs/classification/distillation/deit_tiny_hard_300e_imagenet.py``.

* Paper: Training data-efficient image transformers, https://arxiv.org/abs/2012.12877, table 9
* Command: ``openlab train configs/classification/deit/deit_tiny_distilled_300e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.data.samplers import RepeatAugSampler
from openlab.heads.distilled_head import DistilledHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(
        type=VisionTransformer, size='tiny', patch_size=16, with_distill_token=True,
        drop_path=0.1),
    head=dict(type=DistilledHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

train_dataloader.sampler = dict(type=RepeatAugSampler, num_repeats=3)
optim_wrapper.clip_grad = None
