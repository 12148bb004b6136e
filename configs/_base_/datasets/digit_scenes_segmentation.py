"""Digit scenes with a class for each pixel: background and ten digits.

2000 images of 256 px to train, 400 held out, made on first use in ``data/digit_scenes`` (about a
minute on one core). Mean and standard deviation of the training pixels: 125 and 68.
"""

from openlab.data.datasets.segmentation import SegmentationDataset
from openlab.data.generate.digit_scenes import DigitScenes
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.metrics.segmentation import SegmentationMetric

data_root = 'data/digit_scenes'
num_classes = 11
classes = ['background', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
palette = [[70, 70, 70], [31, 119, 230], [250, 130, 20], [40, 167, 69], [220, 50, 60],
           [140, 90, 210], [0, 175, 185], [230, 90, 170], [150, 105, 60], [190, 190, 30],
           [110, 160, 255]]
make = dict(type=DigitScenes, train=2000, val=400, size=256, seed=0)
train_dataloader = dict(
    batch_size=16,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SegmentationDataset,
        img_dir='images/train',
        mask_dir='semantic/train',
        data_root=data_root,
        classes=classes,
        palette=palette,
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
        type=SegmentationDataset,
        img_dir='images/val',
        mask_dir='semantic/val',
        data_root=data_root,
        classes=classes,
        palette=palette,
        make=make,
        pipeline=[dict(type=LoadImage), dict(type=LoadAnnotations), dict(type=PackInputs)]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=SegmentationMetric)]
