"""Write vision checkpoints of transformers whose architectures openlab has into the zoo.

    python tools/zoo/transformers_weights.py && python tools/zoo/build_index.py

The installed package names the checkpoints of an architecture in its sources; what they learned
from stands in the table below, by pieces of their names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import transformers
from family_files import ZOO, save_classes, write_source

# Folder of the architecture, what its checkpoints do, and what they learned from at least.
ARCHITECTURES = {
    'vit': ('image classification', ['ImageNet-21k']),
    'deit': ('image classification', ['ImageNet-1k']),
    'beit': ('image classification', ['ImageNet-21k']),
    'swin': ('image classification', ['ImageNet-1k']),
    'swinv2': ('image classification', ['ImageNet-1k']),
    'resnet': ('image classification', ['ImageNet-1k']),
    'regnet': ('image classification', ['ImageNet-1k']),
    'convnext': ('image classification', ['ImageNet-1k']),
    'convnextv2': ('image classification', ['ImageNet-1k']),
    'mobilenet_v2': ('image classification', ['ImageNet-1k']),
    'efficientnet': ('image classification', ['ImageNet-1k']),
    'poolformer': ('image classification', ['ImageNet-1k']),
    'levit': ('image classification', ['ImageNet-1k']),
    'pvt_v2': ('image classification', ['ImageNet-1k']),
    'hiera': ('image classification', ['ImageNet-1k']),
    'dinov2': ('representation learning', ['LVD-142M']),
    'vit_mae': ('representation learning', ['ImageNet-1k']),
    'clip': ('representation learning', ['WIT-400M (OpenAI)']),
    'siglip': ('representation learning', ['WebLI']),
    'segformer': ('semantic segmentation', ['ImageNet-1k', 'ADE20K']),
    'detr': ('object detection', ['ImageNet-1k', 'COCO']),
    'conditional_detr': ('object detection', ['ImageNet-1k', 'COCO']),
    'deformable_detr': ('object detection', ['ImageNet-1k', 'COCO']),
    'maskformer': ('semantic segmentation', ['ImageNet-1k']),
    'mask2former': ('semantic segmentation', ['ImageNet-1k']),
    'upernet': ('semantic segmentation', ['ImageNet-1k', 'ADE20K']),
}
MORE_DATA = (('ade', 'ADE20K'), ('cityscapes', 'Cityscapes'), ('coco', 'COCO'),
             ('22k', 'ImageNet-21k'), ('21k', 'ImageNet-21k'))
OTHER_TASKS = (('panoptic', 'panoptic segmentation'), ('instance', 'instance segmentation'),
               ('ade', 'semantic segmentation'), ('deeplab', 'semantic segmentation'))
# Publishers of the original project; names of others in a folder are examples of something else.
PUBLISHERS = ('facebook', 'google', 'microsoft', 'openai', 'nvidia', 'SenseTime', 'sail',
              'OpenGVLab', 'openmmlab')
IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}
HALF = {'mean': [127.5] * 3, 'std': [127.5] * 3}
CLIP = {'mean': [122.7709, 116.746, 104.0937], 'std': [68.5005, 66.6322, 70.3232]}
SHORTER = {'resize': 256, 'crop': 224, 'interpolation': 'bicubic', 'backend': 'pillow'}
SQUARE = {'resize': 224, 'squash': True, 'crop': 224, 'backend': 'pillow'}
# How the preprocessor_config.json of these checkpoints prepares images, and their classes.
PREPARED: dict[str, tuple[dict[str, Any] | None, str | None]] = {
    'google/vit-base-patch16-224': ({**HALF, **SQUARE, 'interpolation': 'bilinear'}, 'imagenet1k'),
    'google/vit-base-patch16-224-in21k': ({**HALF, **SQUARE, 'interpolation': 'bilinear'}, None),
    'facebook/deit-base-distilled-patch16-224': (
        {**IMAGENET, **SHORTER, 'squash': True}, 'imagenet1k'),
    'facebook/convnext-tiny-224': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'facebook/convnextv2-tiny-1k-224': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'facebook/regnet-y-040': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'microsoft/beit-base-patch16-224': (
        {**HALF, **SQUARE, 'interpolation': 'bilinear'}, 'imagenet1k'),
    'microsoft/swin-tiny-patch4-window7-224': (
        {**IMAGENET, **SQUARE, 'interpolation': 'bicubic'}, 'imagenet1k'),
    'microsoft/swinv2-tiny-patch4-window8-256': (
        {**IMAGENET, **SQUARE, 'resize': 256, 'crop': 256, 'interpolation': 'bicubic'},
        'imagenet1k'),
    'facebook/dinov2-base': ({**IMAGENET, **SHORTER}, None),
    'facebook/hiera-tiny-224-hf': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'facebook/hiera-base-224': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'facebook/hiera-tiny-224-mae-hf': ({**IMAGENET, **SHORTER}, None),
    # It normalises twice, by roots of ImageNet's deviations.
    'google/efficientnet-b7': (
        {**IMAGENET, **SQUARE, 'resize': 600, 'crop': 600, 'interpolation': 'nearest'},
        'imagenet1k'),
    'google/mobilenet_v2_1.0_224': (
        {**HALF, **SHORTER, 'interpolation': 'bilinear'}, 'imagenet1001'),
    'facebook/levit-128S': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'microsoft/resnet-50': ({**IMAGENET, **SHORTER}, 'imagenet1k'),
    'openai/clip-vit-base-patch32': ({**CLIP, **SHORTER, 'resize': 224}, None),
    'google/siglip-base-patch16-224': ({**HALF, **SQUARE, 'interpolation': 'bicubic'}, None),
    'facebook/mask2former-swin-small-coco-instance': (None, 'coco80'),
    'facebook/mask2former-swin-small-cityscapes-panoptic': (None, 'cityscapes19'),
    'facebook/detr-resnet-50': (
        {**IMAGENET, 'resize': 800, 'longest': 1333, 'interpolation': 'bilinear',
         'backend': 'pillow'}, 'coco91'),
    'nvidia/segformer-b0-finetuned-ade-512-512': (
        {**IMAGENET, 'resize': 512, 'squash': True, 'interpolation': 'bilinear',
         'backend': 'pillow'}, None),
}
CITYSCAPES = ('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light',
              'traffic sign', 'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck',
              'bus', 'train', 'motorcycle', 'bicycle')
NAME = re.compile(r'''(?:checkpoint\s*=\s*|from_pretrained\(\s*)["']([\w.-]+/[\w.-]+)["']''')


def main() -> None:
    """Write a file for each architecture."""
    folder = Path(transformers.__file__).parent / 'models'
    families = []
    for family, (task, data) in ARCHITECTURES.items():
        text = '\n'.join(f.read_text('utf-8') for f in sorted((folder / family).glob('*.py')))
        names = sorted({n for n in NAME.findall(text)
                        if n.startswith(PUBLISHERS) and is_of(n, family)})
        if names:
            families.append({'family': family, 'models': [as_model(n, task, data) for n in names],
                             'project': 'https://github.com/huggingface/transformers'})
    count = write_source('transformers', families)
    # torchvision's list begins with the background and has gaps where COCO has no category.
    coco = json.loads((ZOO / 'classes' / 'coco91.json').read_text('utf-8'))
    save_classes('coco80', tuple(name for name in coco[1:] if name != 'N/A'))
    save_classes('cityscapes19', CITYSCAPES)
    imagenet = json.loads((ZOO / 'classes' / 'imagenet1k.json').read_text('utf-8'))
    save_classes('imagenet1001', ('background', *imagenet))
    print(f'transformers {transformers.__version__}: {count} models')


def is_of(name: str, family: str) -> bool:
    """Whether a checkpoint's name has the architecture's in it, and is not an example of others."""
    plain = re.sub(r'[^a-z0-9]', '', name.partition('/')[2].lower())
    return re.sub(r'[^a-z0-9]', '', family) in plain


def as_model(name: str, task: str, data: list[str]) -> dict[str, Any]:
    """One checkpoint as an entry."""
    lower = name.lower()
    extra = [found for part, found in MORE_DATA if part in lower]
    preprocessing, classes = PREPARED.get(name, (None, None))
    return {
        'name': name,
        'preprocessing': preprocessing,
        'classes': classes,
        'tasks': [next((t for part, t in OTHER_TASKS if part in lower), task)],
        'training_data': list(dict.fromkeys([*data, *extra])),
        'weights': [f'hf://{name}/model.safetensors', f'hf://{name}/pytorch_model.bin'],
        'page': f'https://huggingface.co/{name}',
    }


if __name__ == '__main__':
    main()
