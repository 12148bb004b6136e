"""Writing a config that trains on a folder of data."""

from __future__ import annotations

from pathlib import Path
from pprint import pformat
from textwrap import fill
from typing import Any

from openlab.data.errors import DataError
from openlab.data.layout import Layout

_COMMON = '''"""{title}, written by ``openlab data import``.

* Data: {root}
* Command: ``openlab train {file}``
{notes}"""

from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

{imports}

data_root = {root!r}
classes = {classes}
num_classes = len(classes)
image_size = {image_size}
train_pipeline = [
{train_steps}
]
test_pipeline = [
{test_steps}
]
train_dataloader = dict(
    batch_size={batch_size},
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset={train})
val_dataloader = dict(
    batch_size={batch_size},
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset={val})
test_dataloader = {test}
val_evaluator = [{metric}]

{model}

max_epochs = {epochs}
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, end=100),
    dict(type=CosineAnnealingLR, by_epoch=True, T_max=max_epochs, end=max_epochs),
]
default_hooks = dict(
    checkpoint=dict(type=CheckpointHook, keep=3, save_best='auto', rule='greater'))
randomness = dict(seed=0)
'''
_ENGINE = {
    'openlab.backbones.resnet': 'ResNet', 'openlab.data.preprocessors': 'ImagePreprocessor',
    'openlab.data.samplers': 'DefaultSampler', 'openlab.data.transforms.flip': 'RandomFlip',
    'openlab.data.transforms.loading': 'LoadImage', 'openlab.data.transforms.packing': 'PackInputs',
    'openlab.engine.hooks.checkpoint': 'CheckpointHook',
    'openlab.engine.loops': 'EpochTrainLoop, TestLoop, ValLoop',
    'openlab.engine.optim': 'OptimWrapper', 'openlab.engine.schedulers': 'LinearWarmup',
}
_PREPROCESSOR = ('preprocessor=dict(\n'
                 '        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], '
                 'std=[58.395, 57.12, 57.375]{more})')
_TASKS: dict[str, dict[str, Any]] = {
    'classification': {
        'title': 'A residual network that classifies images', 'image_size': 224,
        'batch_size': 32, 'epochs': 30,
        'imports': {
            'openlab.algorithms.classification.image_classifier': 'ImageClassifier',
            'openlab.data.transforms.crop': 'CenterCrop, RandomResizedCrop',
            'openlab.data.transforms.resize': 'Resize',
            'openlab.heads.linear_head': 'LinearHead', 'openlab.metrics.accuracy': 'Accuracy'},
        'train_steps': ['LoadImage', 'RandomResizedCrop, size=image_size, scale=(0.35, 1.0)',
                        'RandomFlip', 'PackInputs'],
        'test_steps': ['LoadImage', 'Resize, shorter=image_size * 8 // 7',
                       'CenterCrop, size=image_size', 'PackInputs'],
        'metric': 'dict(type=Accuracy)',
        'model': ('ImageClassifier', '', 'backbone=dict(type=ResNet, depth=18)',
                  'head=dict(type=LinearHead, num_classes=num_classes)')},
    'detection': {
        'title': 'FCOS that finds objects by boxes', 'image_size': 480,
        'batch_size': 8, 'epochs': 24,
        'imports': {
            'openlab.algorithms.detection.fcos': 'FCOS, FCOSHead',
            'openlab.data.transforms.annotations': 'LoadAnnotations',
            'openlab.data.transforms.detection': 'PhotometricDistortion',
            'openlab.data.transforms.resize': 'RandomResize, Resize',
            'openlab.metrics.coco': 'CocoMetric', 'openlab.necks.fpn': 'FPN'},
        'train_steps': ['LoadImage', 'LoadAnnotations',
                        'RandomResize, base=(image_size, image_size), ratio_range=(0.75, 1.25)',
                        'RandomFlip', 'PhotometricDistortion', 'PackInputs'],
        'test_steps': ['LoadImage', 'LoadAnnotations',
                       'Resize, size=image_size, keep_ratio=True', 'PackInputs'],
        'metric': "dict(type=CocoMetric, kinds=['box'])",
        'model': ('FCOS', ',\n        pad_divisor=32',
                  'backbone=dict(type=ResNet, depth=18, out_stages=(3, 4, 5))',
                  'neck=dict(type=FPN, out_channels=128)',
                  'head=dict(type=FCOSHead, num_classes=num_classes, num_convs=2, '
                  'strides=(8, 16, 32),\n              range_factor=4.0)')},
    'segmentation': {
        'title': 'A network that classifies pixels', 'image_size': 256,
        'batch_size': 8, 'epochs': 40,
        'imports': {
            'openlab.algorithms.segmentation.fcn': 'FCN',
            'openlab.data.transforms.annotations': 'LoadAnnotations',
            'openlab.data.transforms.crop': 'RandomCrop',
            'openlab.data.transforms.detection': 'PhotometricDistortion',
            'openlab.data.transforms.resize': 'RandomResize',
            'openlab.heads.fcn_head': 'FCNHead', 'openlab.metrics.segmentation':
                'SegmentationMetric', 'openlab.necks.fpn': 'FPN'},
        'train_steps': ['LoadImage', 'LoadAnnotations', 'RandomResize, ratio_range=(0.5, 2.0)',
                        'RandomCrop, size=image_size', 'RandomFlip', 'PhotometricDistortion',
                        'PackInputs'],
        'test_steps': ['LoadImage', 'LoadAnnotations', 'PackInputs'],
        'metric': 'dict(type=SegmentationMetric)',
        'model': ('FCN', ',\n        pad_divisor=32',
                  'backbone=dict(type=ResNet, depth=18, out_stages=(2, 3, 4, 5))',
                  'neck=dict(type=FPN, out_channels=64)',
                  'head=dict(type=FCNHead, num_classes=num_classes, channels=64, in_index=0)')},
}
_TASK_OF = {'coco': 'detection', 'voc': 'detection', 'yolo': 'detection',
            'pairs': 'segmentation', 'image-folder': 'classification'}
HELD_OUT = 0.2
"""Share of the training items to validate on where the folder has no part for it."""


def write_config(layout: Layout, out: str | Path) -> str:
    """Write a config for a folder; returns its text.

    Raises:
        DataError: if the file exists already.
    """
    out = Path(out)
    if out.exists():
        raise DataError(f'{out} exists already; remove it, or choose another name by --out')
    text = config_text(layout, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding='utf-8')
    return text


def config_text(layout: Layout, out: Path) -> str:
    """The config as text: nothing inherited, everything in sight."""
    task = _TASKS[_TASK_OF[layout.kind]]
    name = layout.dataset.__name__
    imports = {**_ENGINE, **task['imports'], layout.dataset.__module__: name}
    splits = 'val' not in layout.parts
    if splits:
        imports['openlab.data.datasets.wrappers'] = 'SubsetDataset'
    notes = list(layout.notes)
    if splits:
        notes.append(f'there is no part for validation: {HELD_OUT:.0%} of the training items are '
                     f'held out')
    algorithm, more, *parts = task['model']
    model = ',\n    '.join([_PREPROCESSOR.format(more=more), *parts])
    test = 'val_dataloader'
    if 'test' in layout.parts:
        test = ('dict(\n    batch_size={}, sampler=dict(type=DefaultSampler, shuffle=False),\n'
                '    dataset={})').format(task['batch_size'], _dataset(layout, 'test', 'test'))
    return _COMMON.format(
        title=task['title'], root=str(layout.root.resolve()), file=out,
        notes=''.join(fill(f'* Note: {n}', 98, subsequent_indent='  ') + '\n' for n in notes),
        classes=pformat(list(layout.classes), width=88, compact=True),
        imports='\n'.join(f'from {m} import {n}' for m, n in sorted(imports.items())),
        image_size=task['image_size'], batch_size=task['batch_size'], epochs=task['epochs'],
        train_steps=_steps(task['train_steps']), test_steps=_steps(task['test_steps']),
        train=_subset(layout, 'train', rest=True) if splits else _dataset(layout, 'train', 'train'),
        val=_subset(layout, 'test', rest=False) if splits else _dataset(layout, 'val', 'test'),
        test=test, metric=task['metric'],
        model=f'model = dict(\n    type={algorithm},\n    {model})')


def _steps(steps: list[str]) -> str:
    return '\n'.join(f'    dict(type={step}),' for step in steps)


def _dataset(layout: Layout, part: str, pipeline: str, indent: int = 8) -> str:
    arguments = {k: v for k, v in layout.parts[part].items() if k != 'classes'}
    rows = [f'type={layout.dataset.__name__}', 'data_root=data_root',
            *(f'{k}={v!r}' for k, v in arguments.items()),
            'classes=classes', f'pipeline={pipeline}_pipeline']
    return f'dict(\n{" " * indent}' + f',\n{" " * indent}'.join(rows) + ')'


def _subset(layout: Layout, pipeline: str, rest: bool) -> str:
    inner = _dataset(layout, 'train', pipeline, indent=12)
    end = ', rest=True' if rest else ''
    return f'dict(\n        type=SubsetDataset, share={HELD_OUT}{end},\n        dataset={inner})'
