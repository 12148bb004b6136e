"""BEiT-B/16 on ImageNet, to be tuned from pre-trained weights (load_from).

* Paper: BEiT, https://arxiv.org/abs/2106.08254
* Command: ``openlab train configs/classification/beit/beit_base_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.beit import BEiT
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import CrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.adamw_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(type=BEiT, size='base', drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

max_epochs = 100
optim_wrapper.optimizer.lr = 5e-4
