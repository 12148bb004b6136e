"""DeiT III-S on ImageNet: no positions of the class token, LayerScale, binary cross entropy.

* Paper: DeiT III: Revenge of the ViT, https://arxiv.org/abs/2204.07118
* Differs: RandAugment in place of the paper's three augmentations; AdamW in place of LAMB
* Command: ``openlab train configs/classification/deit3/deit3_small_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(
        type=VisionTransformer, size='small', patch_size=16, layer_scale=1e-4,
        with_prefix_position=False, drop_path=0.05),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=BinaryCrossEntropyLoss)))
