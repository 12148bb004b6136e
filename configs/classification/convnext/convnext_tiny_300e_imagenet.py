"""ConvNeXt-T on ImageNet: batch 4096, 20 epochs of warm-up, averaged weights, no clipping.

* Paper: A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545, table 5
* Command: ``openlab train configs/classification/convnext/convnext_tiny_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.convnext import ConvNeXt
from openlab.engine.hooks.ema import EMAHook
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=ConvNeXt, size='tiny', drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

warmup_epochs = 20
optim_wrapper.optimizer.lr = 4e-3
optim_wrapper.clip_grad = None
param_scheduler[1].eta_min = 1e-6
auto_scale_lr = dict(base_batch_size=4096)
custom_hooks = [dict(type=EMAHook, momentum=0.0001)]
