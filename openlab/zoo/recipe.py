"""From a name of the zoo to a config that runs: architecture, preprocessing, classes, weights.

Preprocessing belongs to the weights: a wrong mean or interpolation costs accuracy and no one is
told. So what the source says of it replaces what the config says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openlab.config import load_config
from openlab.config.build import build
from openlab.shipped import shipped_root
from openlab.zoo.index import entry, fetch_weights, has, zoo_folder

logger = logging.getLogger('openlab')
SCHEME = 'zoo://'


@dataclass(frozen=True)
class ZooRecipe:
    """What it takes to run an entry.

    Attributes:
        name: full name of the entry.
        cfg: its config, with the preprocessing of its weights.
        weights: the file.
        classes: names of the classes; empty where they are not known.
        part: the module that the weights fill, if not the whole network.
    """

    name: str
    cfg: dict[str, Any]
    weights: Path
    classes: tuple[str, ...]
    part: str | None = None


def is_zoo_name(source: Any) -> bool:
    """Whether this names an entry of the zoo, and nothing on this machine."""
    if not isinstance(source, str) or Path(source).exists():
        return False
    return source.startswith(SCHEME) or ('://' not in source and has(source))


def recipe_of(name: str, overrides: Sequence[str] = (), with_parts: bool = False) -> ZooRecipe:
    """The recipe of an entry; its weights are downloaded where they have to be.

    Args:
        name: an entry's name, with or without ``zoo://``.
        overrides: edits of the config, as on the command line.
        with_parts: take entries, too, that fill a part of a network only.

    Raises:
        ValueError: if there is no such entry, or it is only listed.
    """
    model = entry(name.removeprefix(SCHEME))
    cfg = config_of(model, overrides)
    part = model.get('check', {}).get('part')
    if part and not with_parts:
        raise ValueError(
            f'{model["name"]} holds a {part} and no head, so that it says nothing of an image by '
            f'itself; openlab train CONFIG --set model.{part}={model["name"]} trains a head on it, '
            f'openlab probe measures what its features know, openlab infer ... --gallery FOLDER '
            f'finds like images')
    files = fetch_weights(model['name'])
    if len(files) > 1:
        raise ValueError(f'{model["name"]} consists of {len(files)} files; only models of one file '
                         'run by name')
    return ZooRecipe(model['name'], cfg, files[0], classes_of(model), part)


def config_of(model: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an entry as plain data, with the preprocessing of its weights."""
    check = model.get('check', {})
    config = model.get('config') or check.get('config')
    if not config:
        raise ValueError(
            f'{model["name"]} is listed, but not proven to fit a config of openlab; openlab zoo '
            f'ls --status runs lists what runs, openlab zoo download {model["name"]} brings the '
            'file')
    edits = [*model.get('overrides', check.get('overrides', ())), *overrides]
    cfg = load_config(shipped_root() / 'configs' / config, edits).to_plain()
    if model.get('preprocessing'):
        apply_preprocessing(cfg, model['preprocessing'])
    else:
        logger.warning('%s: its source does not say how images were prepared; that of %s is used',
                       model['name'], config)
    return cfg


def zoo_model(name: str) -> Any:
    """The model of an entry, with initial values: what a config names by ``type=zoo_model``.

    Its weights are ``zoo://NAME`` to whatever loads weights, such as the ``teacher_weights`` of a
    distillation.

    Args:
        name: an entry's name.

    Raises:
        ValueError: if there is no such entry, or it is only listed.
    """
    return build(config_of(entry(name.removeprefix(SCHEME)))['model'], path=f'model of {name}')


def part_of(model: Mapping[str, Any], network: Any) -> Any:
    """What the weights of an entry fill: the network, or the part that was proven to fit."""
    part = model.get('check', {}).get('part')
    return getattr(network, part) if part else network


def classes_of(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an entry's classes; empty where they are not known."""
    if not model.get('classes'):
        return ()
    file = zoo_folder() / 'classes' / f'{model["classes"]}.json'
    first = model.get('check', {}).get('first_class', 0)  # after a background that is none of ours
    return tuple(json.loads(file.read_text('utf-8')))[first:]


def apply_preprocessing(cfg: dict[str, Any], preprocessing: Mapping[str, Any]) -> None:
    """Prepare images of validation, test and inference as the weights expect it, in place."""
    model = cfg['model']
    model['preprocessor'] = {
        **model.get('preprocessor', {'type': 'openlab.data.preprocessors.ImagePreprocessor'}),
        'mean': list(preprocessing['mean']), 'std': list(preprocessing['std'])}
    if 'resize' not in preprocessing:  # of pre-training no evaluation is told
        return
    for stage in ('val', 'test'):
        dataset = (cfg.get(f'{stage}_dataloader') or {}).get('dataset')
        while isinstance(dataset, dict) and 'pipeline' not in dataset:
            dataset = dataset.get('dataset')
        if dataset:
            dataset['pipeline'] = pipeline_of(preprocessing)


def pipeline_of(preprocessing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Load, resize, pack; networks for whole images say what is cropped between.

    Without a crop, annotations are loaded as well, so that they follow the image. With
    ``crop_padding`` a square is cut out before (EfficientNet).
    """
    transforms = 'openlab.data.transforms'
    resize: dict[str, Any] = {
        'type': f'{transforms}.resize.Resize', 'interpolation': preprocessing['interpolation'],
        'backend': preprocessing.get('backend', 'pillow'),
        **{key: preprocessing[key] for key in ('antialias',) if key in preprocessing}}
    if preprocessing.get('squash') or 'crop_padding' in preprocessing:
        resize['size'] = preprocessing['resize']
    else:
        resize['shorter'] = preprocessing['resize']
    if 'longest' in preprocessing:
        resize['longer'] = preprocessing['longest']
    load, pack = {'type': f'{transforms}.loading.LoadImage'}, {
        'type': f'{transforms}.packing.PackInputs'}
    if 'crop_padding' in preprocessing:
        side = preprocessing['resize']
        square = {'type': f'{transforms}.crop.CenterSquare',
                  'share': side / (side + preprocessing['crop_padding'])}
        return [load, square, resize, pack]
    if 'crop' not in preprocessing:
        return [load, {'type': f'{transforms}.annotations.LoadAnnotations'}, resize, pack]
    crop = {'type': f'{transforms}.crop.CenterCrop', 'size': preprocessing['crop']}
    return [load, resize, crop, pack]
