"""Images of your own to test on: a folder for each class in ``data_root``, named like the class."""

from openlab.data.datasets.image_folder import ImageFolder
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.crop import CenterCrop
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.engine.loops import TestLoop
from openlab.metrics.accuracy import Accuracy

data_root = 'data/images'
test_dataloader = dict(
    batch_size=32,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=ImageFolder,
        data_root=data_root,
        pipeline=[
            dict(type=LoadImage),
            dict(type=Resize, shorter=224, interpolation='bicubic', backend='pillow'),
            dict(type=CenterCrop, size=224),
            dict(type=PackInputs),
        ]))
test_evaluator = [dict(type=Accuracy, topk=(1,))]
test_cfg = dict(type=TestLoop)
