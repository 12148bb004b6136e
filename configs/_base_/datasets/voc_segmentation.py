"""Pascal VOC 2012: 1464 images with masks to train, 1449 held out, background and 20 classes.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012. Expects ``data/VOC2012/{JPEGImages,
SegmentationClass,ImageSets}``. The rim of objects (255) is ignored.
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

data_root = 'data/VOC2012'
num_classes = 21
classes = ['background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat',
           'chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant',
           'sheep', 'sofa', 'train', 'tvmonitor']
crop_size = 512
train_dataloader = dict(
    batch_size=4,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SegmentationDataset,
        ann_file='ImageSets/Segmentation/train.txt',
        img_dir='JPEGImages',
        mask_dir='SegmentationClass',
        data_root=data_root,
        classes=classes,
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
        ann_file='ImageSets/Segmentation/val.txt',
        img_dir='JPEGImages',
        mask_dir='SegmentationClass',
        data_root=data_root,
        classes=classes,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=SegmentationMetric)]
