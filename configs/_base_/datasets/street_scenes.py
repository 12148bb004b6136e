"""Street scenes seen from a car: 367 frames of 480 x 360 to train, 101 held out, 233 to test.

CamVid in the layout and with the 11 classes of SegNet; class 11 is void and ignored. Expects
``data/street_scenes/images/{train,val,test}`` and ``masks/{train,val,test}`` of the same names; set
``data_root`` to where they are.
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

data_root = 'data/street_scenes'
num_classes = 11
classes = ['Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence', 'Car',
           'Pedestrian', 'Bicyclist']
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
           [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
           [0, 128, 192]]
crop_size = (320, 432)
train_dataloader = dict(
    batch_size=8,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SegmentationDataset,
        img_dir='images/train',
        mask_dir='masks/train',
        data_root=data_root,
        classes=classes,
        palette=palette,
        ignore_index=11,
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
        img_dir='images/val',
        mask_dir='masks/val',
        data_root=data_root,
        classes=classes,
        palette=palette,
        ignore_index=11,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=PackInputs),
        ]))
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=SegmentationDataset,
        img_dir='images/test',
        mask_dir='masks/test',
        data_root=data_root,
        classes=classes,
        palette=palette,
        ignore_index=11,
        pipeline=[dict(type=LoadImage), dict(type=LoadAnnotations), dict(type=PackInputs)]))
val_evaluator = [dict(type=SegmentationMetric)]
