"""COCO 2017 as a multi-label set at 448 px: which of its 80 classes an image shows.

Expects ``data/coco/{train2017,val2017,annotations}``. Crowds count as their class.
"""

from openlab.data.datasets.coco import CocoDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.erasing import RandomErasing
from openlab.data.transforms.image_labels import GatherLabels
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.policies import RandAugment
from openlab.data.transforms.resize import Resize
from openlab.metrics.average_precision import MultiLabelAveragePrecision
from openlab.metrics.multi_label import MultiLabelF1

data_root = 'data/coco'
num_classes = 80
image_size = 448
train_dataloader = dict(
    batch_size=64,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_train2017.json',
        data_root=data_root,
        img_dir='train2017',
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=GatherLabels, num_classes=num_classes, crowd='present'),
            dict(type=Resize, size=image_size),
            dict(type=RandAugment),
            dict(type=RandomErasing, prob=0.5),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=64,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_val2017.json',
        data_root=data_root,
        img_dir='val2017',
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=GatherLabels, num_classes=num_classes, crowd='present'),
            dict(type=Resize, size=image_size),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=MultiLabelAveragePrecision), dict(type=MultiLabelF1)]
