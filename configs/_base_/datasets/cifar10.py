"""CIFAR-10: 50,000 images of 32 x 32 px for training, 10,000 for validation, ten classes.

https://www.cs.toronto.edu/~kriz/cifar.html. The archive, or the folder inside it, belongs into
``data/cifar10``.
"""

from openlab.data.datasets.cifar import Cifar10
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.crop import RandomCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.packing import PackInputs
from openlab.metrics.accuracy import Accuracy

data_root = 'data/cifar10'
train_dataloader = dict(
    batch_size=128,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=Cifar10,
        data_root=data_root,
        split='train',
        pipeline=[
            dict(type=RandomCrop, size=32, padding=4),
            dict(type=RandomFlip),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=250,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=Cifar10, data_root=data_root, split='test', pipeline=[dict(type=PackInputs)]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=Accuracy, topk=(1, 5))]
