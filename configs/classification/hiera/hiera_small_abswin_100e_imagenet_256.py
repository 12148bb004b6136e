"""Hiera-S with positions of windows on ImageNet at 256 px.

* Paper: Window Attention is Bugged: How not to Interpolate Position Embeddings,
  https://arxiv.org/abs/2311.05613
* Command:
  ``openlab train configs/classification/hiera/hiera_small_abswin_100e_imagenet_256.py --gpus 8``
"""

from mmengine.config import read_base

with read_base():
    from .hiera_small_100e_imagenet import *

model.backbone.update(
    image_size=256, with_window_position=True, position_grid=16, layer_scale=1e-5,
    with_projection=False)
train_dataloader.dataset.pipeline[1].size = 256
val_dataloader.dataset.pipeline[1].shorter = 284
val_dataloader.dataset.pipeline[2].size = 256
