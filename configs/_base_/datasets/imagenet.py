"""ImageNet-1k at 224 px: 1.28 million images for training, 50,000 for validation.

https://www.image-net.org. One folder for each class in ``data/imagenet/train`` and ``.../val``.
"""

from openlab.data.datasets.imagenet import ImageNet
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.crop import CenterCrop, RandomResizedCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.accuracy import Accuracy

data_root = 'data/imagenet'
image_size = 224
train_dataloader = dict(
    batch_size=128,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=ImageNet,
        data_root=data_root,
        split='train',
        pipeline=[
            dict(type=LoadImage, fast=True),
            dict(type=RandomResizedCrop, size=image_size),
            dict(type=RandomFlip),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=128,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=ImageNet,
        data_root=data_root,
        split='val',
        pipeline=[
            dict(type=LoadImage),
            dict(type=Resize, shorter=image_size * 8 // 7),
            dict(type=CenterCrop, size=image_size),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=Accuracy, topk=(1, 5))]
