"""ResNet-50, procedure A3 of "ResNet strikes back": 100 epochs at 160 px, tested at 224 px.

* Paper: ResNet strikes back, https://arxiv.org/abs/2110.00476, table 2
* Command: ``openlab train configs/classification/resnet/resnet50_rsb_a3_100e_imagenet.py --gpus 4``
"""

from mmengine.config import read_base

from openlab.data.samplers import DefaultSampler

with read_base():
    from .resnet50_rsb_a2_300e_imagenet import *

max_epochs = 100
train_size = 160
rand_magnitude = 6
model.backbone.drop_path = 0.0
train_dataloader.sampler = dict(type=DefaultSampler, shuffle=True)
optim_wrapper.optimizer.lr = 8e-3
