"""DINOv2 ViT-S/14 with 4 registers, tuned on ImageNet at 224 px.

* Papers: DINOv2, https://arxiv.org/abs/2304.07193; Vision Transformers Need Registers,
  https://arxiv.org/abs/2309.16588
* Start from published weights: ``load_from=...``; those of timm and transformers fit
* Command: ``openlab train configs/classification/dinov2/dinov2_small_reg4_30e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(
        type=VisionTransformer, size='small', patch_size=14, layer_scale=1e-5, num_registers=4,
        with_prefix_position=False, drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 30
optim_wrapper.optimizer.lr = 1e-4
