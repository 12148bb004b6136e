"""ViT-Ti/16 on ImageNet as DeiT trains it: batch 1024, repeated augmentation, no clipping.

* Paper: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
* Training: DeiT, https://arxiv.org/abs/2012.12877, table 9
* Command: ``openlab train configs/classification/vit/vit_tiny_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.data.samplers import RepeatAugSampler
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=VisionTransformer, size='tiny', patch_size=16, drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

train_dataloader.sampler = dict(type=RepeatAugSampler, num_repeats=3)
optim_wrapper.clip_grad = None
