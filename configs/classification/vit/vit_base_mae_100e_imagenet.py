"""ViT-B/16 on ImageNet, tuned for 100 epochs from an encoder that MAE pre-trained.

* Paper: Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377,
  table 9; the last norm starts from that of the encoder instead of anew
* First: ``openlab train configs/selfsup/mae/mae_vit_base_800e_imagenet.py --gpus 64``
* Command: ``openlab train configs/classification/vit/vit_base_mae_100e_imagenet.py --gpus 8``
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
    backbone=dict(type=VisionTransformer, size='base', output='mean', drop_path=0.1),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=CrossEntropyLoss, label_smoothing=0.1)))

load_from = dict(source='work_dirs/mae_vit_base_800e_imagenet/checkpoints/last',
                 allow_missing=[r'^head\.'])
max_epochs = 100
optim_wrapper.optimizer.lr = 2e-3
optim_wrapper.clip_grad = None
optim_wrapper.paramwise.layer_decay = 0.65
param_scheduler[1].eta_min = 1e-6
auto_scale_lr.base_batch_size = 1024
