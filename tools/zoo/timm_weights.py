"""Write timm's pretrained tags into the zoo, from the metadata of the installed package.

    python tools/zoo/timm_weights.py [--params FILE] && python tools/zoo/build_index.py

Numbers of parameters are counted on networks without memory, which takes some minutes; FILE keeps
them for the next time.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import timm
from family_files import tidy, write_source
from timm.models import get_pretrained_cfg, is_model, list_pretrained, model_entrypoint

# What the pieces of a tag say of the data, in timm's own words.
DATA = (
    (r'in1k|in1k$', 'ImageNet-1k'), (r'in12k', 'ImageNet-12k'), (r'in21k|in22k|in22ft1k|i21k',
                                                                  'ImageNet-21k'),
    (r'laion|laiona', 'LAION'), (r'openai', 'WIT-400M (OpenAI)'), (r'webli', 'WebLI'),
    (r'dfn', 'DFN'), (r'metaclip', 'MetaCLIP'), (r'datacomp', 'DataComp'),
    (r'commonpool', 'CommonPool'), (r'lvd142m', 'LVD-142M'), (r'lvd1689m', 'LVD-1689M'),
    (r'sat493m', 'SAT-493M'), (r'yfcc', 'YFCC'), (r'cc12m', 'CC3M/CC12M'), (r'sa1b', 'SA-1B'),
    (r'inat', 'iNaturalist'), (r'ig1b|wsl|swsl|seer', 'Instagram (weak labels)'),
    (r'swag', 'SWAG'), (r'merged2b|m38m|merged', 'Merged-38M/Merged-2B'), (r'jft', 'JFT'),
    (r'coco', 'COCO'), (r'o365', 'Objects365'), (r'ssl_yfcc', 'YFCC'), (r'ade20k', 'ADE20K'),
)

EMBEDDINGS = (512, 640, 768, 1024, 1280)  # sizes of what images and texts share in CLIP


def main() -> None:
    """Write a file for each module of ``timm.models``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--params', type=Path, help='file that keeps the numbers of parameters')
    args = parser.parse_args()
    counts = json.loads(args.params.read_text()) if args.params and args.params.is_file() else {}
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in list_pretrained():
        cfg = get_pretrained_cfg(name)
        key = f'{cfg.architecture}:{cfg.num_classes}'
        if key not in counts:
            counts[key] = count_params(cfg.architecture, cfg.num_classes)
            if args.params:
                args.params.write_text(json.dumps(counts))
        module = model_entrypoint(cfg.architecture).__module__.rpartition('.')[2]
        assert is_model(cfg.architecture)
        families[module].append(as_model(name, cfg, counts[key]))
    count = write_source('timm', [
        {'family': family, 'project': 'https://github.com/huggingface/pytorch-image-models',
         'models': group} for family, group in families.items()])
    print(f'timm {timm.__version__}: {count} models')


def as_model(name: str, cfg: Any, params: int | None) -> dict[str, Any]:
    """One tag of timm as an entry of ours."""
    paper = {'title': cfg.paper_name}
    number = re.search(r'(\d{4}\.\d{4,5})', str(cfg.paper_ids or ''))
    if number:
        paper['url'] = f'https://arxiv.org/abs/{number[1]}'
    file = getattr(cfg, 'hf_hub_filename', None) or 'model.safetensors'
    weights = [f'hf://{cfg.hf_hub_id}/{file}'] if cfg.hf_hub_id else []
    if cfg.url:
        weights.append(cfg.url)
    is_classifier = (bool(cfg.num_classes) and cfg.num_classes not in EMBEDDINGS
                     and 'clip' not in name.partition('.')[2].split('_'))
    return {
        'name': name,
        'tasks': ['image classification' if is_classifier else 'representation learning'],
        'architecture': cfg.architecture,
        'paper': tidy(paper),
        'params': params,
        'training_data': data_of(cfg.tag or '', cfg.num_classes),
        'weights': weights,
        'license': cfg.license if cfg.license != 'unknown' else None,
        'origin': cfg.origin_url,
        'classes': 'imagenet1k' if cfg.num_classes == 1000 else None,
        'num_classes': cfg.num_classes,
        'preprocessing': preprocessing(cfg),
    }


def data_of(tag: str, num_classes: int) -> list[str]:
    """Data sets that a tag names; 1,000 classes without a word are those of ImageNet."""
    found = [name for pattern, name in DATA if re.search(pattern, tag)]
    if not found and num_classes == 1000:
        found = ['ImageNet-1k']
    return list(dict.fromkeys(found))


def preprocessing(cfg: Any) -> dict[str, Any]:
    """How timm prepares images to test these weights."""
    size = (cfg.test_input_size or cfg.input_size)[-1]
    share = cfg.test_crop_pct or cfg.crop_pct
    return {'mean': [round(255 * v, 4) for v in cfg.mean],
            'std': [round(255 * v, 4) for v in cfg.std],
            'resize': math.floor(size / share), 'crop': size,
            'interpolation': cfg.interpolation, 'backend': 'pillow',
            **({'squash': True} if cfg.crop_mode == 'squash' else {})}


def count_params(architecture: str, num_classes: int) -> int | None:
    """Numbers in the weights of a network; None where timm cannot build it like this."""
    import torch

    try:
        with torch.device('meta'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = timm.create_model(architecture, num_classes=num_classes)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        print(f'{architecture}: not counted ({error})')
        return None
    return sum(p.numel() for p in model.parameters())


if __name__ == '__main__':
    main()
