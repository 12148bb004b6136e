"""DeiT-Ti whose distillation token learns what RegNetY-16GF takes for the class, on ImageNet.

* Paper: Training data-efficient image transformers, https://arxiv.org/abs/2012.12877, section 4
* Differs: weights of the teacher are those of torchvision
* Command: ``openlab train configs/classification/distillation/deit_tiny_hard_300e_imagenet.py``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.algorithms.distillation import Distillation
from openlab.backbones.regnet import RegNet
from openlab.backbones.vit import VisionTransformer
from openlab.data.samplers import RepeatAugSampler
from openlab.heads.distilled_head import DistilledHead
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.losses.distillation import HardTargetLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=Distillation,
    preprocessor=preprocessor,
    student=dict(
        type=ImageClassifier,
        backbone=dict(
            type=VisionTransformer, size='tiny', patch_size=16, with_distill_token=True,
            drop_path=0.1),
        head=dict(type=DistilledHead, num_classes=num_classes,
                  loss=dict(type=CrossEntropyLoss, label_smoothing=0.1))),
    teacher=dict(
        type=ImageClassifier,
        backbone=dict(type=RegNet, size='y_16gf'),
        head=dict(type=LinearHead, num_classes=num_classes)),
    teacher_weights='torchvision://regnet_y_16gf',
    logits=dict(type=HardTargetLoss, loss_weight=0.5),
    truth_weight=0.5)

train_dataloader.sampler = dict(type=RepeatAugSampler, num_repeats=3)
optim_wrapper.clip_grad = None
