"""``digit_scenes_panoptic`` at 128 px, in batches of 8, turned and scaled a little in training."""

from mmengine.config import read_base

from openlab.data.transforms.affine import RandomAffine
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.resize import Resize

with read_base():
    from .digit_scenes_panoptic import *

image_size = 128
train_dataloader.batch_size = 8
train_dataloader.num_workers = 2
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=Resize, size=image_size),
    dict(type=RandomAffine, degrees=6, translate=(0.1, 0.1), scale=(0.87, 1.15), fill=125,
         min_visible=0.1),
    dict(type=PackInputs),
]
val_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations),
    dict(type=KeepOriginalMap),
    dict(type=Resize, size=image_size),
    dict(type=PackInputs, extra_keys=('original_map',)),
]
test_dataloader = val_dataloader
