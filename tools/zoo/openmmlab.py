"""Write the models that OpenMMLab published into the zoo, from a file of facts.

    python tools/zoo/openmmlab.py FACTS.json && python tools/zoo/build_index.py
    PYTHONPATH=peer python tools/zoo/openmmlab.py FACTS.json --pipelines

FACTS.json is a list with one row for each model of the metafiles: repo, name, collection, config,
results (task, dataset, metrics), weights, params, flops, training_data, paper_title, paper_url,
license. How images are prepared is in mmpretrain's configs alone; ``--pipelines`` reads them
(``mmpretrain_peer.py`` says how to get it), else what the entries have of it is kept.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from family_files import ZOO, normal_metric, normal_task, write_source
from mmpretrain_peer import BROKEN, Peer

from openlab.zoo.index import entries
from openlab.zoo.terms import data_names

PREPARED = ('preprocessing', 'classes', 'num_classes')

# What a model does where its rows name no task.
DEFAULT_TASKS = {
    'mmpretrain': 'representation learning', 'mmselfsup': 'representation learning',
    'mmrazor': 'model compression', 'mmgeneration': 'image generation',
    'mmdetection': 'object detection', 'mmsegmentation': 'semantic segmentation',
    'mmpose': 'body 2d keypoint', 'mmdetection3d': '3d object detection', 'mmflow': 'optical flow',
    'mmocr': 'text recognition', 'mmaction2': 'action recognition', 'mmyolo': 'object detection',
}
# Columns of the sources' tables that are settings or words and no measurements.
NO_METRIC = re.compile(
    r'iter|epoch|batch|comment|log$|scales|\\sigma|inplace|step|reference|total|lr$|gpu|config|'
    r'memory|download|noise|gamma|^#|truncation|quality|P&R|num images|n_disc', re.I)
# A slip of the pen in one metafile.
MISSPELT = {'download.oz1z1penmmlab.com': 'download.openmmlab.com'}


def main() -> None:
    """Read the facts, write a folder for each repository."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('facts', type=Path)
    parser.add_argument('--pipelines', action='store_true',
                        help='read from mmpretrain how images are prepared')
    args = parser.parse_args()
    rows = json.loads(args.facts.read_text('utf-8'))
    for repo in sorted({row['repo'] for row in rows}):
        known = prepared(repo)
        found = families([row for row in rows if row['repo'] == repo])
        for model in (model for family in found for model in family['models']):
            config = model['source_config'] or ''
            is_read = args.pipelines and repo == 'mmpretrain' and not re.search(BROKEN, config)
            model.update(read_pipeline(config) if is_read else known.get(model['name'], {}))
        print(f'{repo}: {write_source(repo, found)} models')


def prepared(repo: str) -> dict[str, dict[str, Any]]:
    """What the entries of a repository tell of images and classes, by name."""
    return {entry['name'].partition('/')[2]: {key: entry[key] for key in PREPARED if key in entry}
            for file in (ZOO / repo).glob('*.json')
            for entry in entries(json.loads(file.read_text('utf-8')))}


def read_pipeline(config: str) -> dict[str, Any]:
    """The same from a config of mmpretrain."""
    peer = Peer(config)
    return {'preprocessing': peer.preprocessing, 'num_classes': peer.num_classes,
            'classes': 'imagenet1k' if peer.num_classes == 1000 else None}


def families(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The collections of one repository."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for family, model in models(rows):
        groups[family].append(model)
    return [
        {'family': name, 'project': f'https://github.com/open-mmlab/{rows[0]["repo"]}',
         'license': license_of(rows[0]), 'models': group}
        for name, group in groups.items()
    ]


def models(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Family and entry of each model; rows that tell the same model twice become one."""
    found: dict[str, dict[str, Any]] = {}
    family_of: dict[str, str] = {}
    for row in rows:
        model = as_model(row)
        known = found.get(model['name'])
        if known and known.get('weights') == model.get('weights'):
            known['results'] += [r for r in model['results'] if r not in known['results']]
            continue
        if known:  # other weights under the same name: told apart by their hash
            address = (model.get('weights') or ['none'])[0]
            digits = re.search(r'([0-9a-f]{8})\.\w+$', address)
            model['name'] += f'~{digits[1] if digits else len(found)}'
        found[model['name']] = model
        family_of[model['name']] = row['collection'] or 'Other'
    return [(family_of[name], model) for name, model in found.items()]


def as_model(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the facts as an entry."""
    tasks = list(dict.fromkeys(normal_task(r['task']) for r in row['results'] if r['task']))
    default = DEFAULT_TASKS.get(row['repo'])
    addresses = [a for a in map(address, as_list(row['weights'])) if a]
    model = {
        'name': row['name'] or Path(row['metafile']).parent.name,
        'tasks': tasks or ([default] if default else []),
        'paper': paper(row),
        'source_config': row['config'],
        'params': number(row['params']),
        'flops': number(row['flops']),
        'training_data': training_data(row),
        'results': [result for r in row['results'] for result in results(r)],
    }
    if len(addresses) > 1:  # parts of one model, not mirrors of each other
        return {**model, 'files': [{'weights': [a]} for a in addresses]}
    return {**model, 'weights': addresses}


def results(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measurements among a block of metrics."""
    dataset = str(block['dataset'] or '')
    found = []
    for name, value in flat(block['metrics'] or {}):
        value = number(value)
        if value is not None and not NO_METRIC.search(name):
            found.append({'dataset': '' if dataset.startswith(('#', '-')) else dataset,
                          'metric': normal_metric(name), 'value': value})
    return found


def flat(metrics: Mapping[str, Any], prefix: str = '') -> list[tuple[str, Any]]:
    """Names and values of metrics that may be nested."""
    pairs = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            # tables give 'PSNR/SSIM (Y)' as one column of two numbers
            is_pair = 'PSNR' in name
            pairs += flat(value, prefix if is_pair else f'{prefix}{name} ')
        else:
            pairs.append((f'{prefix}{name}', value))
    return pairs


def training_data(row: Mapping[str, Any]) -> list[str]:
    """Names of the data sets that the weights learned from, as far as the row tells."""
    told = [t for t in as_list(row['training_data']) if t and not t.startswith(('#', '-'))]
    return [name for name in data_names(told) if name.lower() not in ('others', 'none')]


def paper(row: Mapping[str, Any]) -> dict[str, str]:
    """Title and address."""
    return {key: row[field] for key, field in (('title', 'paper_title'), ('url', 'paper_url'))
            if row[field]}


def license_of(row: Mapping[str, Any]) -> str:
    """The licence of the repository, which is all that is said of its weights."""
    return row['license'].partition(' ')[0].lower()


def address(text: str) -> str | None:
    """A usable address, or None: some rows have a page or a placeholder."""
    for wrong, right in MISSPELT.items():
        text = text.replace(wrong, right)
    hub = re.fullmatch(r'https://huggingface\.co/([^/]+/[^/]+)/(?:blob|resolve)/([^/]+)/(.+)', text)
    if hub:
        return f'hf://{hub[1]}/{hub[3]}@{hub[2]}'
    is_file = text.startswith('http') and '/tree/' not in text
    return text.replace('weight//', 'weight/') if is_file else None


def number(value: Any) -> float | int | None:
    """A number, also of ``24.3M``, ``33G`` or ``79.8%``."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) if float(value).is_integer() and abs(value) > 1e5 else value
    found = re.fullmatch(r'\s*(-?[\d.]+)\s*([kKMG]?)\s*%?\s*', str(value))
    try:
        plain = float(found[1]) if found else None
    except ValueError:
        return None
    if found is None or plain is None:
        return None
    factor = {'': 1, 'k': 1e3, 'm': 1e6, 'g': 1e9}[found[2].lower()]
    return round(plain * factor) if found[2] else plain


def as_list(value: Any) -> list[Any]:
    """A list of one, or the list, or an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


if __name__ == '__main__':
    main()
