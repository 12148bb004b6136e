"""COCO 2017 with boxes (and masks where ``with_masks`` says so), shorter edge 800, 80 classes.

Expects ``data/coco/{train2017,val2017,annotations}``.
"""

from openlab.data.datasets.coco import CocoDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.coco import CocoMetric

data_root = 'data/coco'
num_classes = 80
with_masks = False
train_dataloader = dict(
    batch_size=2,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_train2017.json',
        data_root=data_root,
        img_dir='train2017',
        with_masks=with_masks,
        keep_empty=False,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, shorter=800, longer=1333),
            dict(type=RandomFlip, prob=0.5),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_val2017.json',
        data_root=data_root,
        img_dir='val2017',
        with_masks=with_masks,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, shorter=800, longer=1333),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=CocoMetric, kinds=['box'],
                      ann_file=f'{data_root}/annotations/instances_val2017.json')]
