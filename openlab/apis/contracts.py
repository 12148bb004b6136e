"""Do the published checkpoints of OpenMMLab fit our models, name by name and shape by shape?

A contracts file holds, for each published config, the names, shapes and types that its released
state dict holds. Nothing is downloaded: our model and their tensors live on the meta device.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.loading import match
from openlab.zoo.openmmlab_configs import config_of, find_published

Contract = Mapping[str, Sequence[Any]]


@dataclass
class ContractResult:
    """How one published checkpoint fits.

    Attributes:
        name: published config.
        config: our config; empty if there is none.
        problem: why it does not load strictly; empty if it does.
        part: the only part of it that is looked at; empty if it is all.
    """

    name: str
    config: str = ''
    problem: str = ''
    part: str = ''

    @property
    def family(self) -> str:
        """Folder of the published config."""
        return self.name.removeprefix('configs/').split('/')[0]

    @property
    def loads(self) -> bool:
        """Whether every name is accounted for and every shape fits."""
        return bool(self.config) and not self.problem


def read_contracts(path: str | Path) -> dict[str, Contract]:
    """Read ``{config: {name: [shape, dtype]}}`` from JSON, gzipped or not."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no contracts file at {path}; expected JSON, or JSON in gzip, of '
                                '{published config: {name: [shape, dtype]}}')
    opened: Any = gzip.open if path.suffix == '.gz' else open
    with opened(path, 'rt', encoding='utf-8') as file:
        return json.load(file)


def check_contract(name: str, contract: Contract) -> ContractResult:
    """Match one published checkpoint with our model of the same name."""
    row = find_published(name)
    if row is None:
        return ContractResult(name)
    config = config_of(row, name)
    result = ContractResult(name, config, part=row.part or '')
    model_config = load_config(config, row.overrides(name)).to_plain()['model']
    with torch.device('meta'):
        model = build(model_config, path='model')
        state = {key: torch.empty(shape) for key, (shape, _) in contract.items()}
    part = row.part or ('backbone' if name.endswith('_headless.py') else None)
    if part:
        model = getattr(model, part)
        state = {key.removeprefix(f'{part}.'): tensor for key, tensor in state.items()
                 if key.startswith(f'{part}.')}
    result.problem = misfit(model, state)
    return result


def misfit(model: nn.Module, state: Mapping[str, torch.Tensor]) -> str:
    """What keeps ``state`` from loading strictly into ``model``, in words; empty if nothing."""
    report, _ = match(model, state)
    problems = []
    for label, names in (('missing', report.missing), ('unexpected', report.unexpected),
                         ('wrong shape', [*report.wrong_shape, *report.resized])):
        if names:
            problems.append(f'{len(names)} {label} ({", ".join(names[:2])})')
    return '; '.join(problems)


def check_contracts(contracts: Mapping[str, Contract], only: str = '') -> list[ContractResult]:
    """Check all published checkpoints whose name contains ``only``."""
    return [check_contract(name, contract) for name, contract in contracts.items() if only in name]


def table(results: Iterable[ContractResult]) -> str:
    """Counts by family, and the sum, as text.

    ``partly`` are those, among what loads, of which only a part is looked at: the backbone of a
    pre-training that we do not have.
    """
    families: dict[str, list[ContractResult]] = defaultdict(list)
    for result in results:
        families[result.family].append(result)
    lines = [f'{"family":<24} {"loads":>5} {"of":>4} {"partly":>6}']
    rows = [*sorted(families.items()), ('all', [m for found in families.values() for m in found])]
    for family, members in rows:
        loads = [m for m in members if m.loads]
        partly = sum(bool(m.part) for m in loads)
        lines.append(f'{family:<24} {len(loads):>5} {len(members):>4} {partly or "":>6}'.rstrip())
    return '\n'.join(lines)
