"""Prove which entries of the zoo fit our configs, and record it in ``model_zoo/checks.json``.

    python tools/zoo/check_runs.py [--contracts mmpretrain.json.gz] [--only timm/resnet]

torchvision and timm: the published network is built, on the meta device to compare names and
shapes through our key maps, then with random numbers in every weight to compare what comes out.
OpenMMLab: names and shapes from a file of contracts (see ``check_contracts.py``). Entries that
``--only`` leaves out keep their record. ``openlab zoo status`` counts what stands there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from family_files import ROOT, ZOO
from torch import nn

import openlab
from openlab.apis.contracts import check_contract, misfit, read_contracts
from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.loading import load_weights
from openlab.zoo.index import entries

CONFIGS = ROOT / 'configs'
FILE = ZOO / 'checks.json'
TOLERANCE = 1e-4  # of the largest output
LARGEST = 120_000_000  # parameters of a network whose outputs are compared
# What our backbones may be set to, besides what their configs say.
VARIANTS: dict[str, dict[str, tuple[Any, ...]]] = {
    'ResNet': {'depth': (18, 34, 50, 101, 152)},
    'VGG': {'depth': (11, 13, 16, 19), 'with_norm': (True, False)},
    'DenseNet': {'depth': (121, 161, 169, 201)},
    'EfficientNet': {
        'size': ('b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'lite0', 'lite1',
                 'lite2', 'lite3', 'lite4', 'v2_s', 'v2_m', 'v2_l', 'v2_xl', 'v2_b0', 'v2_b1',
                 'v2_b2', 'v2_b3'),
        'padding': ('symmetric', 'same')},
    'RegNet': {'size': tuple(f'{kind}_{size}' for kind in 'xy' for size in (
        '200mf', '400mf', '600mf', '800mf', '1.6gf', '3.2gf', '4.0gf', '4gf', '6.4gf', '8gf',
        '8.0gf', '12gf', '16gf', '32gf'))},
    'VisionTransformer': {'image_size': (224, 256, 384, 448, 512, 518)},
    'MobileNetV2': {'width': (0.5, 0.75, 1.0, 1.1, 1.4)},
    'MobileNetV4': {'width': (0.35, 0.5, 0.75, 1.0), 'pool_down': (False, True)},
    'HRNet': {'size': ('w18_small', 'w18_small_v2', *(f'w{n}' for n in (18, 30, 32, 40, 44, 48,
                                                                      64))),
              'neck.bias': (True, False)},
    'ResNeSt': {'depth': (14, 26, 50, 101, 200, 269)},
    'CSPNet': {'size': ('darknet53', 'resnet50', 'resnet50d', 'resnext50')},
}
# Parameters of auxiliary classifiers, which only training uses and key maps drop.
AUXILIARY = {('torchvision', 'inception_v3'): 3_326_696}
EXTRA: dict[str, tuple[str, ...]] = {  # settings of norms that some published weights ask for
    'EfficientNet': ("model.backbone.norm={'type': 'torch.nn.BatchNorm2d', 'eps': 0.001}",),
    'MobileNetV3': ("model.backbone.norm={'type': 'torch.nn.BatchNorm2d', 'eps': 0.001}",),
}


class Variant(NamedTuple):
    """One network of ours."""

    config: str
    overrides: tuple[str, ...]
    params: int = 0
    kind: str = ''
    per_class: int = 0  # parameters that one more class costs


def main() -> None:
    """Check, record, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--contracts', type=Path, help='names and shapes of OpenMMLab')
    parser.add_argument('--only', default='', help='start of the names to check')
    parser.add_argument('--families', nargs='*', default=[''],
                        help='folders of configs/classification to compare with; by default all')
    parser.add_argument('--minutes', type=float, default=60, help='stop after this time')
    args = parser.parse_args()
    torch.manual_seed(0)
    old = json.loads(FILE.read_text('utf-8'))['checks'] if FILE.is_file() else {}
    records = {name: r for name, r in old.items() if not name.startswith(args.only)}
    end = time.monotonic() + 60 * args.minutes
    for name, record in itertools.chain(
            check_own(args.only), check_published(args.only, end, args.families),
            check_openmmlab(args.contracts, args.only) if args.contracts else ()):
        records[name] = record
        write(records)
    print(f'{len(records)} entries run')


def write(records: Mapping[str, Any]) -> None:
    """Write the records, one a line."""
    lines = ',\n'.join(f'  {json.dumps(name)}: {json.dumps(records[name])}'
                       for name in sorted(records))
    FILE.write_text('{\n "checks": {\n' + lines + '\n }\n}\n', 'utf-8')


def record_of(variant: Variant, proof: str, tensors: int) -> dict[str, Any]:
    """What is noted of a proof."""
    found = {'config': variant.config, 'proof': proof, 'tensors': tensors,
             'openlab': openlab.__version__}
    return {**found, 'overrides': list(variant.overrides)} if variant.overrides else found


def our_variants(families: Sequence[str] = ('',)) -> Iterator[Variant]:
    """Our classifiers of 1,000 classes: each config and the sizes that it may be set to."""
    seen = set()
    files = sorted(file for family in families
                   for file in (CONFIGS / 'classification' / family).rglob('*_imagenet*.py'))
    models = {file: load_config(file).to_plain()['model'] for file in files}
    plain = [(file, {}) for file in files]  # a config as it is comes before one with edits
    edited = [(file, dict(edits)) for file in files for edits in edits_of(models[file])]
    for file, changes in plain + edited:
        network = edited_model(models[file], changes)
        used = {k: v for k, v in network['backbone'].items() if k != 'drop_path'}
        key = json.dumps([used, network.get('neck'), network['head']['type']], sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        try:
            with torch.device('meta'):
                built = build(network, path='model')
        except (ValueError, KeyError, TypeError):
            continue  # a size that this backbone does not have
        ends = [m.in_features for m in built.modules()
                if isinstance(m, nn.Linear) and m.out_features == 1000]
        yield Variant(
            file.relative_to(CONFIGS).as_posix(),
            tuple(f'model.{place(name)}={value!r}' for name, value in changes.items()),
            sum(p.numel() for p in built.parameters()),
            network['backbone']['type'].rpartition('.')[2], sum(n + 1 for n in ends))


def place(name: str) -> str:
    """Where a setting of ``VARIANTS`` stands in a model."""
    return name if '.' in name else f'backbone.{name}'


def edited_model(model: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model with other settings."""
    result = dict(model)
    for name, value in changes.items():
        part, _, key = place(name).partition('.')
        result[part] = {**result[part], key: value}
    return result


def edits_of(model: Mapping[str, Any]) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Combinations of what a backbone may be set to."""
    options = VARIANTS.get(model['backbone']['type'].rpartition('.')[2], {})
    if options:
        yield from itertools.product(*([(key, value) for value in values]
                                       for key, values in options.items()))


def with_classes(variant: Variant, classes: int) -> Variant:
    """The same network with another number of classes."""
    if classes == 1000:
        return variant
    return variant._replace(
        overrides=(*variant.overrides, f'model.head.num_classes={classes}'),
        params=variant.params + (classes - 1000) * variant.per_class)


def our_model(config: str | Path, overrides: tuple[str, ...]) -> nn.Module:
    """Build a network of ours."""
    cfg = load_config(CONFIGS / config, list(overrides))
    return build(cfg.to_plain()['model'], path='model')


def check_own(only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of ours whose weights are on this machine: they are loaded."""
    from openlab.zoo.sources import fetch

    for model in models_of('openlab'):
        if not model['name'].startswith(only) or not model.get('config'):
            continue
        overrides = tuple(model.get('overrides', ()))
        ours = our_model(model['config'], overrides)
        try:
            report = load_weights(ours, fetch(model['weights'][0]))
        except FileNotFoundError as error:
            print(f'{model["name"]}: not checked, {error}')
            continue
        variant = Variant(model['config'], overrides)
        yield model['name'], record_of(variant, 'its weights load', len(report.matched))


def check_published(only: str, end: float,
                    families: Sequence[str] = ('',)) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of torchvision and timm with as many parameters as a network of ours."""
    wanted = [model for source in ('torchvision', 'timm') for model in models_of(source)
              if model.get('params') and model['name'].startswith(only)]
    if not wanted:
        return
    done: dict[tuple[str, str, int, int], dict[str, Any] | None] = {}
    variants = list(our_variants(families))
    print(f'{len(variants)} networks of ours', flush=True)
    for model in wanted:
        classes = model.get('num_classes', 1000)
        if not classes or model['name'].startswith('torchvision/quantized_'):
            continue
        params = model['params'] - AUXILIARY.get((model['source'], model['architecture']), 0)
        same = [v for v in (with_classes(v, classes) for v in variants) if v.params == params]
        key = (model['source'], model['architecture'], classes, model['params'])
        if key not in done and same and time.monotonic() < end:
            done[key] = first_fit(model, classes, same)
            print(f'{key}: {done[key] or "does not fit"}', flush=True)
        if done.get(key):
            yield model['name'], done[key]  # type: ignore[misc]


def models_of(source: str) -> Iterator[dict[str, Any]]:
    """Every entry of a source."""
    for file in sorted((ZOO / source).glob('*.json')):
        yield from entries(json.loads(file.read_text('utf-8')))


def first_fit(model: Mapping[str, Any], classes: int,
              variants: list[Variant]) -> dict[str, Any] | None:
    """The record of the first variant that gives the same numbers."""
    whole: nn.Module | None = None
    try:
        with torch.device('meta'):
            shapes = reference(model, classes).state_dict()
    except NotImplementedError:  # some networks compute their widths with tensors
        shapes = reference(model, classes).state_dict()
    for variant in variants:
        with torch.device('meta'):
            problem = misfit(our_model(variant.config, variant.overrides), shapes)
        if problem:
            continue
        if variant.params > LARGEST:
            return record_of(variant, 'names and shapes', len(shapes))
        if whole is None:
            whole = reference(model, classes).eval()
            randomise(whole)
        tries = [variant] + [variant._replace(overrides=(*variant.overrides, extra))
                             for extra in EXTRA.get(variant.kind, ())]
        for attempt in tries:
            if same_numbers(whole, attempt, image_size(model)):
                return record_of(attempt, 'names, shapes and outputs', len(shapes))
    return None


def reference(model: Mapping[str, Any], classes: int) -> nn.Module:
    """The published network with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if model['source'] == 'timm':
            import timm

            return timm.create_model(model['architecture'], num_classes=classes)
        from torchvision import models

        sized = {'image_size': image_size(model)} if 'vit_' in model['architecture'] else {}
        return models.get_model(model['architecture'], weights=None, **sized)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Numbers that leave no branch out: fresh networks scale some of them by zero."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if not tensor.is_floating_point():
            continue
        if name.endswith('running_var'):
            tensor.uniform_(0.8, 1.2)
        elif tensor.ndim <= 1 and 'relative' not in name:
            is_scale = name.endswith(('weight', 'gamma'))
            tensor.uniform_(0.5, 1.0) if is_scale else tensor.normal_(0, 0.05)


def image_size(model: Mapping[str, Any]) -> int:
    """Pixels for the comparison: few, except where a network takes only its own size."""
    if model['source'] == 'timm':
        from timm.models import get_pretrained_cfg

        cfg = get_pretrained_cfg(model['name'].partition('/')[2])
        is_fixed = cfg.fixed_input_size or re.search('vit|swin|beit|eva', model['architecture'])
        return cfg.input_size[-1] if is_fixed else 96
    if re.search('vit|swin', model['architecture']):
        return (model.get('preprocessing') or {}).get('crop', 224)
    return 96


@torch.no_grad()
def same_numbers(whole: nn.Module, variant: Variant, size: int) -> bool:
    """Whether our network gives the logits of the published one, with its weights."""
    ours = our_model(variant.config, variant.overrides).eval()
    try:
        load_weights(ours, whole.state_dict())
        image = torch.randn(1, 3, size, size)
        expected = whole(image)
        got = ours.outputs(image)
    except (ValueError, RuntimeError, AssertionError) as error:
        print(f'  {variant.config} {variant.overrides}: {str(error).splitlines()[0][:150]}')
        return False
    got = got[0] if isinstance(got, (tuple, list)) else got
    if getattr(got, 'shape', None) != expected.shape or not expected.isfinite().all():
        return False
    error = ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    if error > TOLERANCE:
        print(f'  {variant.config} {variant.overrides}: outputs differ by {error:.1e}')
    return error <= TOLERANCE


def check_openmmlab(file: Path, only: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of mmpretrain and mmselfsup whose contract fits."""
    contracts = read_contracts(file)
    fits: dict[str, dict[str, Any] | None] = {}
    for model in [*models_of('mmpretrain'), *models_of('mmselfsup')]:
        config = model.get('source_config')
        if config not in contracts or not model['name'].startswith(only):
            continue
        if config not in fits:
            fits[config] = contract_record(config, contracts[config])
        if fits[config]:
            yield model['name'], fits[config]  # type: ignore[misc]


def contract_record(name: str, contract: Any) -> dict[str, Any] | None:
    """The record for one published config of OpenMMLab; None if it does not fit."""
    from openlab.zoo.openmmlab_configs import find_published

    result, published = check_contract(name, contract), find_published(name)
    if not result.loads or published is None:
        return None
    variant = Variant(result.config.removeprefix('configs/'),
                      tuple(published.overrides(name)))
    return record_of(variant, 'names and shapes', len(contract))


if __name__ == '__main__':
    main()
