"""In-shop clothes retrieval at 224 px: 25,882 images of 3,997 garments to train on.

Expects ``data/inshop/{Eval,Img}``. 14,218 images query a gallery of 12,612.
"""

from openlab.data.datasets.inshop import InShop
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.crop import CenterCrop, RandomCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.retrieval import RetrievalMetric

data_root = 'data/inshop'
num_classes = 3997
train_dataloader = dict(
    batch_size=64,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=InShop,
        split='train',
        data_root=data_root,
        pipeline=[
            dict(type=LoadImage),
            dict(type=Resize, size=256),
            dict(type=RandomCrop, size=224),
            dict(type=RandomFlip),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=64,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=InShop,
        split='test',
        data_root=data_root,
        pipeline=[
            dict(type=LoadImage),
            dict(type=Resize, size=256),
            dict(type=CenterCrop, size=224),
            dict(type=PackInputs, meta_keys=['role']),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=RetrievalMetric, recall=(1, 10, 20, 30))]
