"""COCO 2017 with 80 things and 53 stuff classes (80 to 132), shorter edge 800.

Expects ``data/coco/{train2017,val2017,annotations,panoptic_train2017,panoptic_val2017}``, the last
two unpacked from the archives of the panoptic annotations.
"""

from openlab.data.datasets.coco_panoptic import CocoPanopticDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.panoptic import PanopticQuality

data_root = 'data/coco'
num_things = 80
num_stuff = 53
train_dataloader = dict(
    batch_size=2,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoPanopticDataset,
        ann_file='annotations/panoptic_train2017.json',
        panoptic_dir='panoptic_train2017',
        data_root=data_root,
        img_dir='train2017',
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
        type=CocoPanopticDataset,
        ann_file='annotations/panoptic_val2017.json',
        panoptic_dir='panoptic_val2017',
        data_root=data_root,
        img_dir='val2017',
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, shorter=800, longer=1333),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=PanopticQuality)]
