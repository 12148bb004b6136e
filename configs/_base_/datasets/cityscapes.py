"""Cityscapes: streets of 50 cities at 2048 x 1024, 2975 images to train, 500 held out, 19 classes.

https://www.cityscapes-dataset.com. Expects ``data/cityscapes/leftImg8bit/{train,val}`` and
``data/cityscapes/gtFine/{train,val}`` with the masks ``*_gtFine_labelTrainIds.png`` that its own
scripts make.
"""

from openlab.data.datasets.segmentation import SegmentationDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.crop import RandomCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import RandomResize
from openlab.metrics.segmentation import SegmentationMetric

data_root = 'data/cityscapes'
num_classes = 19
classes = ['road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light',
           'traffic sign', 'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck',
           'bus', 'train', 'motorcycle', 'bicycle']
crop_size = (512, 1024)
train_dataloader = dict(
    batch_size=2,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SegmentationDataset,
        img_dir='leftImg8bit/train',
        mask_dir='gtFine/train',
        data_root=data_root,
        classes=classes,
        img_suffix='_leftImg8bit.png',
        mask_suffix='_gtFine_labelTrainIds.png',
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=RandomResize, ratio_range=(0.5, 2.0)),
            dict(type=RandomCrop, size=crop_size, max_category_ratio=0.75),
            dict(type=RandomFlip),
            dict(type=ColorJitter, brightness=0.25, contrast=0.5, saturation=0.5, hue=0.05),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=SegmentationDataset,
        img_dir='leftImg8bit/val',
        mask_dir='gtFine/val',
        data_root=data_root,
        classes=classes,
        img_suffix='_leftImg8bit.png',
        mask_suffix='_gtFine_labelTrainIds.png',
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=SegmentationMetric)]
