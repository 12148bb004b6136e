"""Pascal VOC 2007: train and val to train on, test held out, shorter edge 600, 20 classes.

Expects ``data/VOC2007/{Annotations,ImageSets,JPEGImages}``. Difficult objects are ignored.
"""

from openlab.data.datasets.voc import VocDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.coco import CocoMetric

data_root = 'data/VOC2007'
num_classes = 20
classes = ['aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
           'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
           'train', 'tvmonitor']
train_dataloader = dict(
    batch_size=2,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=VocDataset,
        ann_file='ImageSets/Main/trainval.txt',
        data_root=data_root,
        classes=classes,
        keep_empty=False,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, shorter=600, longer=1000),
            dict(type=RandomFlip, prob=0.5),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=VocDataset,
        ann_file='ImageSets/Main/test.txt',
        data_root=data_root,
        classes=classes,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, shorter=600, longer=1000),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=CocoMetric, kinds=['box'])]
