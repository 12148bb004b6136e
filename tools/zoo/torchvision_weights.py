"""Write torchvision's weights into the zoo, from the metadata of the installed package.

    python tools/zoo/torchvision_weights.py && python tools/zoo/build_index.py

The names of classes come along, into ``model_zoo/classes``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import torch
import torchvision
from family_files import normal_metric, save_classes, write_source
from torchvision import models
from torchvision.transforms import InterpolationMode

TASKS = {'detection': 'object detection', 'segmentation': 'semantic segmentation',
         'video': 'action recognition', 'optical_flow': 'optical flow',
         'quantization': 'image classification'}
DATA = {'COCO': ['COCO'], 'KINETICS': ['Kinetics'], 'IMAGENET': ['ImageNet-1k'],
        'SWAG_E2E': ['SWAG', 'ImageNet-1k'], 'SWAG_LINEAR': ['SWAG', 'ImageNet-1k']}
FLOW_DATA = {'C': 'FlyingChairs', 'T': 'FlyingThings3D', 'S': 'Sintel', 'K': 'KITTI',
             'H': 'HD1K'}
CLASSES = {'ImageNet-1K': 'imagenet1k', 'COCO-val2017': 'coco91', 'Kinetics-400': 'kinetics400',
           'COCO-val2017-VOC-labels': 'voc21'}
ABOUT = ('the code of torchvision is under BSD-3-Clause; of its weights the project says that they '
         'may have terms of their own, derived from the data')


def main() -> None:
    """Write a file for each module of ``torchvision.models``, and the names of classes."""
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for builder in models.list_models():
        for weights in models.get_model_weights(builder):
            function = models.get_model_builder(builder)
            module = function.__module__.removeprefix('torchvision.models.')
            families[module].append(as_model(builder, weights, module))
    count = write_source('torchvision', [
        {'family': family, 'project': 'https://github.com/pytorch/vision',
         'license': 'bsd-3-clause', 'about': ABOUT, 'models': group}
        for family, group in families.items()])
    print(f'torchvision {torchvision.__version__}: {count} models')


def as_model(builder: str, weights: Any, module: str) -> dict[str, Any]:
    """One weights entry of torchvision as an entry of ours."""
    meta = weights.meta
    task = TASKS.get(module.partition('.')[0], 'image classification')
    task = {'keypoint_rcnn': 'body 2d keypoint', 'mask_rcnn': 'instance segmentation'}.get(
        module.rpartition('.')[2], task)
    if 'keypointrcnn' in builder:
        task = 'body 2d keypoint'
    elif 'maskrcnn' in builder:
        task = 'instance segmentation'
    metrics = meta.get('_metrics') or {}
    return {
        'name': f'{builder}.{weights.name}',
        'tasks': [task],
        'architecture': builder,
        'params': meta.get('num_params'),
        'flops': round(meta['_ops'] * 1e9) if meta.get('_ops') else None,
        'recipe': meta.get('recipe'),
        'training_data': data_of(weights.name, builder, task),
        'results': [{'dataset': data, 'metric': normal_metric(name), 'value': value}
                    for data, values in metrics.items() for name, value in values.items()
                    # The features of VGG state nan.
                    if isinstance(value, (int, float)) and math.isfinite(value)],
        'weights': [weights.url],
        'megabytes': meta.get('_file_size'),
        'classes': classes_of(meta, metrics),
        'preprocessing': preprocessing(weights, builder),
    }


def data_of(tag: str, builder: str, task: str) -> list[str]:
    """Training data, as the names of torchvision's weights tell it."""
    if task == 'optical flow':
        letters = re.sub(r'V\d', '', tag)  # C_T_SKHT_V2: chairs, things, then a mix
        return [name for letter, name in FLOW_DATA.items() if letter in letters]
    for part in sorted(DATA, key=len, reverse=True):
        if part in tag:
            # detectors and segmentors of torchvision start from an ImageNet backbone
            base = ['ImageNet-1k'] if part == 'COCO' else []
            return list(dict.fromkeys([*DATA[part], *base]))
    return []


def classes_of(meta: dict[str, Any], metrics: dict[str, Any]) -> str | None:
    """Name of the list of classes, which is written where it is new."""
    names = meta.get('categories')
    known = next((CLASSES[data] for data in metrics if data in CLASSES), None)
    if known == 'coco91' and len(names or ()) != 91:
        return None  # detectors of people alone name no other class
    if names and known:
        save_classes(known, tuple(names))
        return known
    return None


def preprocessing(weights: Any, builder: str) -> dict[str, Any] | None:
    """How torchvision prepares images for these weights."""
    made = weights.transforms()
    kind = type(made).__name__
    if kind == 'ObjectDetection':
        return detector_preprocessing(builder)
    if kind not in ('ImageClassification', 'SemanticSegmentation'):
        return None
    name = {InterpolationMode.BILINEAR: 'bilinear', InterpolationMode.BICUBIC: 'bicubic'}
    size: dict[str, Any] = {'resize': made.resize_size[0]}
    if kind == 'ImageClassification':
        size['crop'] = made.crop_size[0]
    return {'mean': [round(255 * v, 4) for v in made.mean],
            'std': [round(255 * v, 4) for v in made.std], **size,
            'interpolation': name[made.interpolation], 'backend': 'pillow'}


def detector_preprocessing(builder: str) -> dict[str, Any]:
    """How a detector of torchvision, which prepares images itself, does so."""
    with torch.device('meta'):
        made = models.get_model(builder, weights=None, weights_backbone=None).transform
    found = {'mean': [round(255 * v, 4) for v in made.image_mean],
             'std': [round(255 * v, 4) for v in made.image_std]}
    if made.fixed_size:
        return {**found, 'resize': list(made.fixed_size), 'squash': True,
                'interpolation': 'bilinear', 'backend': 'cv2'}
    return {**found, 'resize': made.min_size[0], 'longest': made.max_size,
            'interpolation': 'bilinear', 'backend': 'cv2'}



if __name__ == '__main__':
    main()
