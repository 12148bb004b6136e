"""Predictions and truth in a file, to be evaluated again without model or images.

``.pt`` and ``.pkl`` are torch's format (both load with ``weights_only=True``), ``.json`` is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlab.engine import distributed
from openlab.structures.data_sample import DataSample

FORMAT = 1
SUFFIXES = ('.pt', '.pkl', '.json')
Pair = tuple[DataSample, DataSample]


def check_suffix(path: str | Path) -> None:
    """Refuse a file name that no format belongs to.

    Raises:
        ValueError: if the suffix is unknown.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f'predictions go to a file ending in {", ".join(SUFFIXES)}, got {path}')


def gather_and_write(path: str | Path, pairs: Sequence[Pair], meta: Mapping[str, Any]) -> None:
    """Write the pairs of all processes from rank 0; every process must call this."""
    rows = [{'prediction': plain_sample(p), 'sample': plain_sample(s)} for p, s in pairs]
    gathered = distributed.all_gather_object(rows)
    if distributed.is_main_process():
        seen = [row for part in gathered for row in part
                if not row['sample']['meta'].get('is_repeat', False)]
        write(path, seen, meta)


def write(path: str | Path, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> None:
    """Write rows of plain predictions and truths.

    Args:
        path: its suffix decides the format.
        rows: ``{'prediction': ..., 'sample': ...}`` by ``plain_sample``.
        meta: about the dataset, such as ``classes``.
    """
    check_suffix(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {'format': FORMAT, 'meta': plain(meta), 'rows': list(rows)}
    if path.suffix == '.json':
        path.write_text(json.dumps(data, default=_tensor_as_json), encoding='utf-8')
    else:
        torch.save(data, path)


def read(path: str | Path) -> tuple[list[Pair], dict[str, Any]]:
    """Read pairs of prediction and truth, and what is known about the dataset.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold predictions.
    """
    check_suffix(path)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(2, 'no such file of predictions', str(path))
    if path.suffix == '.json':
        data = json.loads(path.read_text(encoding='utf-8'), object_hook=_tensor_from_json)
    else:
        data = torch.load(path, map_location='cpu', weights_only=True)
    if not isinstance(data, dict) or data.get('format') != FORMAT:
        raise ValueError(f'{path} holds no predictions written by `openlab test --dump`')
    pairs = [(DataSample(**r['prediction']), DataSample(**r['sample'])) for r in data['rows']]
    return pairs, data['meta']


def plain_sample(sample: DataSample) -> dict[str, Any]:
    """The fields that are set, as tensors and plain types."""
    values = {f.name: getattr(sample, f.name) for f in fields(sample)}
    return {name: plain(value) for name, value in values.items() if value is not None}


def plain(value: Any) -> Any:
    """The value without arrays, tuples, paths and numpy numbers."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _tensor_as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {'dtype': str(value.dtype).removeprefix('torch.'), 'values': value.tolist(),
                'shape': list(value.shape)}
    raise TypeError(f'{type(value).__name__} cannot be written as JSON')


def _tensor_from_json(data: dict[str, Any]) -> Any:
    if data.keys() == {'dtype', 'values', 'shape'}:
        dtype = getattr(torch, data['dtype'])
        return torch.tensor(data['values'], dtype=dtype).reshape(data['shape'])
    return data
