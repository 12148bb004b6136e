"""Digit scenes as a multi-label set: which digits a scene shows; 2000 to train, 400 held out.

They are made on first use, in ``data/digit_scenes`` (about a minute on one core), and shown at
128 px. Mean and standard deviation of the training pixels: 125 and 68.
"""

from openlab.data.datasets.coco import CocoDataset
from openlab.data.generate.digit_scenes import DigitScenes
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.image_labels import GatherLabels
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.average_precision import MultiLabelAveragePrecision
from openlab.metrics.multi_label import MultiLabelF1

data_root = 'data/digit_scenes'
num_classes = 10
image_size = 128
make = dict(type=DigitScenes, train=2000, val=400, size=256, seed=0)
train_dataloader = dict(
    batch_size=32,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_train.json',
        data_root=data_root,
        img_dir='images/train',
        make=make,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=GatherLabels, num_classes=num_classes),
            dict(type=Resize, size=image_size),
            dict(type=ColorJitter, brightness=0.3, contrast=0.3, saturation=0.3, prob=0.5),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=50,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_val.json',
        data_root=data_root,
        img_dir='images/val',
        make=make,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=GatherLabels, num_classes=num_classes),
            dict(type=Resize, size=image_size),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=MultiLabelAveragePrecision), dict(type=MultiLabelF1)]
