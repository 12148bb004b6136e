"""ADE20K: scenes of all kinds, 20,210 images to train, 2000 held out, 150 classes.

http://sceneparsing.csail.mit.edu (ADEChallengeData2016). Expects ``data/ade/images/{training,
validation}`` and ``data/ade/annotations``; 0 there means "other" and is ignored. The names of the
classes are read from ``data/ade/classes.txt``, one on each line, where that file exists.
"""

from openlab.data.datasets.segmentation import SegmentationDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.crop import RandomCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.original_map import KeepOriginalMap
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import RandomResize, Resize
from openlab.metrics.segmentation import SegmentationMetric

data_root = 'data/ade'
num_classes = 150
crop_size = 512
train_dataloader = dict(
    batch_size=4,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SegmentationDataset,
        img_dir='images/training',
        mask_dir='annotations/training',
        data_root=data_root,
        reduce_zero_label=True,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=RandomResize, ratio_range=(0.5, 2.0), base=(512, 2048)),
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
        img_dir='images/validation',
        mask_dir='annotations/validation',
        data_root=data_root,
        reduce_zero_label=True,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=KeepOriginalMap),
            dict(type=Resize, shorter=512, longer=2048),
            dict(type=PackInputs, extra_keys=('original_map',)),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=SegmentationMetric, num_classes=num_classes, per_class=False)]
