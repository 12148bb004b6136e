"""CLIP ViT-B/16, its image tower tuned on ImageNet.

* Paper: CLIP, https://arxiv.org/abs/2103.00020
* Start from published weights: ``load_from=...``; the tower of a transformers checkpoint fits
* Command: ``openlab train configs/classification/clip/clip_base_50e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base
from torch.nn import LayerNorm

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.heads.linear_head import LinearHead
from openlab.layers.act import QuickGELU
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

preprocessor.mean = [122.771, 116.746, 104.094]
preprocessor.std = [68.501, 66.632, 70.323]
model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(
        type=VisionTransformer, size='base', patch_size=16, with_pre_norm=True, drop_path=0.1,
        norm=dict(type=LayerNorm, eps=1e-5), act=dict(type=QuickGELU)),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 50
optim_wrapper.optimizer.lr = 1e-4
