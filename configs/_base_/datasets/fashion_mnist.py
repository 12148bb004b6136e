"""Fashion-MNIST: 60,000 gray images of clothes to train, 10,000 to validate, padded to 32 px.

https://arxiv.org/abs/1708.07747. The four IDX files, gzipped or not, belong into
``data/fashion-mnist``. Where Debian's package ``dataset-fashion-mnist`` is installed:
``--set data_root=/usr/share/datasets/fashion-mnist``.
"""

from openlab.data.datasets.mnist import FashionMnist
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.crop import Pad, RandomCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.packing import PackInputs
from openlab.metrics.accuracy import Accuracy

data_root = 'data/fashion-mnist'
train_dataloader = dict(
    batch_size=128,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=FashionMnist,
        data_root=data_root,
        split='train',
        pipeline=[
            dict(type=Pad, size=32, center=True),
            dict(type=RandomCrop, size=32, padding=2),
            dict(type=RandomFlip),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=250,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=FashionMnist,
        data_root=data_root,
        split='test',
        pipeline=[dict(type=Pad, size=32, center=True), dict(type=PackInputs)]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=Accuracy, topk=(1, 5))]
