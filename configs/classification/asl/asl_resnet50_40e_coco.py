"""ResNet-50 with the asymmetric loss on COCO, 448 px, averaged weights.

* Paper: Asymmetric Loss For Multi-Label Classification, https://arxiv.org/abs/2009.14119
* Differs: ResNet-50 in place of TResNet; a cosine in place of the one-cycle schedule
* Command: ``openlab train configs/classification/asl/asl_resnet50_40e_coco.py --gpus 2``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.hooks.ema import EMAHook
from openlab.heads.multi_label_head import MultiLabelHead
from openlab.losses.multi_label import AsymmetricLoss

with read_base():
    from ..._base_.datasets.coco_multilabel import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=50),
    head=dict(type=MultiLabelHead, num_classes=num_classes,
              loss=dict(type=AsymmetricLoss, gamma_pos=0.0, gamma_neg=4.0, clip=0.05)))

load_from = dict(source='torchvision://resnet50', replace_head=True)
max_epochs = 40
optim_wrapper.optimizer.lr = 2e-4
optim_wrapper.optimizer.weight_decay = 1e-4
auto_scale_lr = dict(base_batch_size=128)
custom_hooks = [dict(type=EMAHook, momentum=0.0003)]
default_hooks.checkpoint.save_best = 'multilabel/mAP'
