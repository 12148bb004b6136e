"""Write vision checkpoints of transformers whose architectures openlab has into the zoo.

    python tools/zoo/transformers_weights.py && python tools/zoo/build_index.py

The installed package names the checkpoints of an architecture in its sources; what they learned
from stands in the table below, by pieces of their names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers
from family_files import write_source

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
    print(f'transformers {transformers.__version__}: {count} models')


def is_of(name: str, family: str) -> bool:
    """Whether a checkpoint's name has the architecture's in it, and is not an example of others."""
    plain = re.sub(r'[^a-z0-9]', '', name.partition('/')[2].lower())
    return re.sub(r'[^a-z0-9]', '', family) in plain


def as_model(name: str, task: str, data: list[str]) -> dict[str, Any]:
    """One checkpoint as an entry."""
    lower = name.lower()
    extra = [found for part, found in MORE_DATA if part in lower]
    return {
        'name': name,
        'tasks': [next((t for part, t in OTHER_TASKS if part in lower), task)],
        'training_data': list(dict.fromkeys([*data, *extra])),
        'weights': [f'hf://{name}/model.safetensors', f'hf://{name}/pytorch_model.bin'],
        'page': f'https://huggingface.co/{name}',
    }


if __name__ == '__main__':
    main()
