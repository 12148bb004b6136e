"""SimCLR with ResNet-50 on ImageNet, 100 epochs of 4096 images a step over all processes.

* Paper: A Simple Framework for Contrastive Learning of Visual Representations,
  https://arxiv.org/abs/2002.05709, section 2 and appendix B
* Command: ``openlab train configs/selfsup/simclr/simclr_resnet50_100e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.selfsup.simclr import SimCLR
from openlab.backbones.resnet import ResNet
from openlab.engine.optimizers.lars import LARS
from openlab.heads.projector import Projector

with read_base():
    from ..._base_.datasets.imagenet_without_labels import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=SimCLR,
    preprocessor=preprocessor,
    backbone=dict(type=ResNet, depth=50),
    projector=dict(type=Projector, num_layers=2, hidden_channels=2048, out_channels=128),
    temperature=0.1)

train_dataloader.batch_size = 512
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=MultiView, counts=[2], pipelines=[[
        dict(type=RandomResizedCrop, size=image_size, scale=(0.08, 1.0)),
        dict(type=RandomFlip),
        dict(type=ColorJitter, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, prob=0.8),
        dict(type=RandomGrayscale, prob=0.2),
        dict(type=GaussianBlur, sigma=(0.1, 2.0), kernel_size=23, prob=0.5)]]),
    dict(type=PackInputs),
]

sync_bn = True
warmup_epochs = 10
train_cfg.val_interval = 10
optim_wrapper.optimizer = dict(type=LARS, lr=4.8, momentum=0.9, weight_decay=1e-6)
auto_scale_lr = dict(base_batch_size=4096)
