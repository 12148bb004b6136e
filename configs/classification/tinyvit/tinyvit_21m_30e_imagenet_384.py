"""TinyViT-21M on ImageNet at 384 px, to be tuned from the weights of a smaller size.

* Paper: TinyViT: Fast Pretraining Distillation for Small Vision Transformers,
  https://arxiv.org/abs/2207.10666
* Command: ``openlab train configs/classification/tinyvit/tinyvit_21m_30e_imagenet_384.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .tinyvit_21m_300e_imagenet import *

model.backbone.window_size = 12
max_epochs = 30
optim_wrapper.optimizer.lr = 4e-5
train_dataloader.dataset.pipeline[1].size = 384
val_dataloader.dataset.pipeline[1].shorter = 425
val_dataloader.dataset.pipeline[2].size = 384
