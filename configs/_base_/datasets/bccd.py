"""Blood cells (BCCD): 364 microscope images of 640 x 480 px, three classes.

Train and val together are trained on, test is held out. ``data_root`` is the folder that holds
``Annotations``, ``ImageSets`` and ``JPEGImages``; another one: ``--set data_root=FOLDER``.
https://github.com/Shenggan/BCCD_Dataset
"""

from openlab.data.datasets.voc import VocDataset
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.color import ColorJitter
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.coco import CocoMetric

data_root = 'data/BCCD'
classes = ['RBC', 'WBC', 'Platelets']
num_classes = 3
image_size = [240, 320]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=VocDataset,
        ann_file='ImageSets/Main/trainval.txt',
        data_root=data_root,
        classes=classes,
        difficult='keep',
        keep_empty=False,
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, size=image_size),
            dict(type=RandomFlip, prob=0.5),
            dict(type=RandomFlip, prob=0.5, direction='vertical'),
            dict(type=ColorJitter, brightness=0.2, contrast=0.2, saturation=0.2),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=VocDataset,
        ann_file='ImageSets/Main/test.txt',
        data_root=data_root,
        classes=classes,
        difficult='keep',
        pipeline=[
            dict(type=LoadImage),
            dict(type=LoadAnnotations),
            dict(type=Resize, size=image_size),
            dict(type=PackInputs),
        ]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=CocoMetric, per_class=True)]
