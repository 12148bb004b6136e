"""Pascal VOC 2007 as a multi-label set at 448 px: trainval to train on, test held out, 20 classes.

Expects ``data/VOC2007/{Annotations,ImageSets,JPEGImages}``. A class whose only objects are
difficult counts neither for nor against.
"""

from openlab.data.datasets.voc import VocDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.crop import RandomResizedCrop
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.image_labels import GatherLabels
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.average_precision import MultiLabelAveragePrecision
from openlab.metrics.multi_label import MultiLabelF1

data_root = 'data/VOC2007'
num_classes = 20
image_size = 448
classes = ['aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
           'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
           'train', 'tvmonitor']
train_dataloader = dict(
    batch_size=16,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=VocDataset,
        ann_file='ImageSets/Main/trainval.txt',
        data_root=data_root,
        classes=classes,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=GatherLabels, num_classes=num_classes),
            dict(type=RandomResizedCrop, size=image_size, scale=(0.7, 1.0)),
            dict(type=RandomFlip),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=16,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=VocDataset,
        ann_file='ImageSets/Main/test.txt',
        data_root=data_root,
        classes=classes,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=GatherLabels, num_classes=num_classes),
            dict(type=Resize, size=image_size),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=MultiLabelAveragePrecision), dict(type=MultiLabelF1)]
