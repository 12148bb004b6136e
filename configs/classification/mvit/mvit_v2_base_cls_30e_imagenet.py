"""MViTv2-B with a class token on ImageNet, to be tuned from weights of ImageNet-21k.

* Paper: MViTv2: Improved Multiscale Vision Transformers for Classification and Detection,
  https://arxiv.org/abs/2112.01526
* Command: ``openlab train configs/classification/mvit/mvit_v2_base_cls_30e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .mvit_v2_tiny_300e_imagenet import *

model.backbone.update(
    size='base', drop_path=0.3, with_class_token=True, expands_in_attention=True,
    output='class_token')
max_epochs = 30
warmup_epochs = 5
optim_wrapper.optimizer.lr = 6e-5
