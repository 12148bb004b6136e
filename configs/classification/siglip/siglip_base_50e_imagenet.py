"""SigLIP ViT-B/16, its image tower tuned on ImageNet.

* Paper: SigLIP, https://arxiv.org/abs/2303.15343
* Start from published weights: ``load_from=...``; the tower of a transformers checkpoint fits
* Command: ``openlab train configs/classification/siglip/siglip_base_50e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base
from torch.nn import GELU

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

preprocessor.mean = [127.5, 127.5, 127.5]
preprocessor.std = [127.5, 127.5, 127.5]
model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(
        type=VisionTransformer, size='base', patch_size=16, output='attention_pool',
        with_class_token=False, drop_path=0.1, act=dict(type=GELU, approximate='tanh')),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 50
optim_wrapper.optimizer.lr = 1e-4
