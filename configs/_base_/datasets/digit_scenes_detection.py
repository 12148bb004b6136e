"""Digit scenes with boxes and masks: 2000 images of 256 px to train, 400 held out, ten classes.

They are made on first use, in ``data/digit_scenes`` (about a minute on one core). Masks are read
where ``with_masks`` says so. Mean and standard deviation of the training pixels: 125 and 68.
"""

from openlab.data.datasets.coco import CocoDataset
from openlab.data.generate.digit_scenes import DigitScenes
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.metrics.coco import CocoMetric

data_root = 'data/digit_scenes'
num_classes = 10
with_masks = False
make = dict(type=DigitScenes, train=2000, val=400, size=256, seed=0)
train_dataloader = dict(
    batch_size=16,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_train.json',
        data_root=data_root,
        img_dir='images/train',
        with_masks=with_masks,
        keep_empty=False,
        make=make,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=ColorJitter, brightness=0.3, contrast=0.3, saturation=0.3, prob=0.5),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=16,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        ann_file='annotations/instances_val.json',
        data_root=data_root,
        img_dir='images/val',
        with_masks=with_masks,
        make=make,
        pipeline=[dict(type=LoadImage), dict(type=LoadAnnotations), dict(type=PackInputs)]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=CocoMetric, kinds=['box'])]
