"""Digit scenes with things and stuff: ten digits as things, the background as stuff (class 10).

2000 images of 256 px to train, 400 held out, made on first use in ``data/digit_scenes`` (about a
minute on one core). Boxes, labels and masks of the things, the semantic and the panoptic map
come together. Mean and standard deviation of the training pixels: 125 and 68.
"""

from openlab.data.datasets.coco_panoptic import CocoPanopticDataset
from openlab.data.generate.digit_scenes import DigitScenes
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs

data_root = 'data/digit_scenes'
num_things = 10
num_stuff = 1
make = dict(type=DigitScenes, train=2000, val=400, size=256, seed=0)
train_dataloader = dict(
    batch_size=16,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CocoPanopticDataset,
        ann_file='annotations/panoptic_train.json',
        panoptic_dir='panoptic/train',
        data_root=data_root,
        img_dir='images/train',
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
        type=CocoPanopticDataset,
        ann_file='annotations/panoptic_val.json',
        panoptic_dir='panoptic/val',
        data_root=data_root,
        img_dir='images/val',
        make=make,
        pipeline=[dict(type=LoadImage), dict(type=LoadAnnotations), dict(type=PackInputs)]))
test_dataloader = val_dataloader
