"""Writing of the zoo's files so that people can read them and changes show line by line."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ZOO = ROOT / 'model_zoo'

# Names of one task, and of one metric, in different sources.
TASKS = {
    'classification': 'image classification', 'multi-object tracking': 'multiple object tracking',
    'image2image translation': 'image translation', 'image2image': 'image translation',
    'text2image': 'text to image', 'text2video': 'text to video', 'image denoising': 'denoising',
    'human pose estimation': 'body 2d keypoint', 'optical flow estimation': 'optical flow',
    'unconditional gans': 'image generation', 'conditional gans': 'image generation',
    'denoising diffusion probabilistic models': 'image generation',
    'self-supervised image classification': 'self-supervised learning',
}
METRICS = {
    'top 1 accuracy': 'top1', 'acc@1': 'top1', 'top 5 accuracy': 'top5', 'acc@5': 'top5',
    'accuracy': 'accuracy', 'box_map': 'box AP', 'box ap': 'box AP', 'mask_map': 'mask AP',
    'mask ap': 'mask AP', 'kp_map': 'AP', 'miou': 'mIoU', 'pixel_acc': 'aAcc',
}


def normal_task(name: str) -> str:
    """The zoo's word for a task."""
    return TASKS.get(name.strip().lower(), name.strip().lower())


def normal_metric(name: str) -> str:
    """The zoo's word for a metric."""
    return METRICS.get(name.strip().lower(), name.strip())


def slug(name: str) -> str:
    """A family's name as that of a file."""
    return re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') or 'other'


def write_source(source: str, families: Iterable[Mapping[str, Any]]) -> int:
    """Replace the files of a source; returns the number of models.

    Each family has ``family``, ``models`` and fields that its models share.
    """
    folder = ZOO / source
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    for family in families:
        name = slug(family['family'])
        while name in files:
            name += '_2'
        files[name] = {'source': source, **family}
    for name, family in files.items():
        family['models'] = sorted((tidy(m) for m in family['models']), key=lambda m: m['name'])
        _hoist(family)
        (folder / f'{name}.json').write_text(family_text(family), 'utf-8')
    return sum(len(family['models']) for family in files.values())


def _hoist(family: dict[str, Any]) -> None:
    """Say once, for the family, what is equal in all of its models."""
    for key in ('tasks', 'paper', 'license', 'training_data', 'classes', 'preprocessing'):
        values = [model.get(key) for model in family['models']]
        if len(values) > 1 and values[0] and all(value == values[0] for value in values):
            family[key] = values[0]
            for model in family['models']:
                del model[key]


def tidy(model: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that say nothing."""
    return {key: value for key, value in model.items() if value not in (None, [], {}, '')}


def family_text(family: Mapping[str, Any]) -> str:
    """JSON with one line for each field, and one for each result."""
    shared = tidy({k: v for k, v in family.items() if k != 'models'})
    lines = [f' {_json(key)}: {_json(value)},' for key, value in shared.items()]
    models = ',\n'.join(_model_text(model) for model in family['models'])
    return '{\n' + '\n'.join(lines) + '\n "models": [\n' + models + '\n ]\n}\n'


def _model_text(model: Mapping[str, Any]) -> str:
    fields = []
    for key, value in model.items():
        if isinstance(value, list) and value and (
                isinstance(value[0], dict) or len(_json(value)) > 90):
            items = ',\n'.join(f'    {_json(item)}' for item in value)
            fields.append(f'   {_json(key)}: [\n{items}\n   ]')
        else:
            fields.append(f'   {_json(key)}: {_json(value)}')
    return '  {\n' + ',\n'.join(fields) + '\n  }'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@functools.cache
def save_classes(name: str, classes: tuple[str, ...]) -> None:
    """Write ``model_zoo/classes/NAME.json``."""
    file = ZOO / 'classes' / f'{name}.json'
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(classes, indent=0, ensure_ascii=False) + '\n', 'utf-8')
