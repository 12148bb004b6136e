"""A model small enough to compute by hand, and a runner around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from openlab.algorithms.base import Algorithm
from openlab.engine.runner import Runner
from openlab.metrics.base import Metric
from openlab.structures.data_sample import DataSample

NO_HOOKS = {'logger': None, 'timer': None, 'checkpoint': None, 'run_folder': None}


class Line(Algorithm):
    """One linear layer with squared error; truth is in ``extra['target']``."""

    def __init__(self, num_inputs: int = 3, dropout: float = 0.0):
        super().__init__()
        self.head = nn.Linear(num_inputs, 1)
        self.dropout = nn.Dropout(dropout)

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        return self.head(self.dropout(inputs))[:, 0]

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        target = torch.stack([s.extra['target'] for s in samples])
        return {'loss_square': (outputs.float() - target).square().mean()}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        return [DataSample(meta=s.meta, extra={'value': o}) for o, s in zip(outputs, samples)]


class Points(Dataset):
    """Random inputs whose target is their sum."""

    def __init__(self, size: int = 12, seed: int = 0):
        self.inputs = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = self.inputs[index]
        return {'inputs': x, 'sample': DataSample(meta={'img_id': index},
                                                  extra={'target': x.sum()})}


class Error(Metric):
    """Mean absolute error."""

    name = 'error'

    def reset(self) -> None:
        self.errors: list[float] = []

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        self.errors += [abs(float(p.extra['value'] - s.extra['target']))
                        for p, s in zip(predictions, samples)]

    def compute(self) -> dict[str, float]:
        return {'mean': sum(self.errors) / len(self.errors), 'count': float(len(self.errors))}

    def state(self) -> Any:
        return self.errors

    def merge(self, states: list[Any]) -> None:
        self.errors = [e for state in states for e in state]


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {'inputs': torch.stack([i['inputs'] for i in items]),
            'samples': [i['sample'] for i in items]}


def points_loader(size: int = 12, batch_size: int = 4) -> DataLoader:
    return DataLoader(Points(size), batch_size=batch_size, collate_fn=collate)


def make_runner(tmp_path: Any, **changes: Any) -> Runner:
    """A runner that trains ``Line`` for two epochs of three batches."""
    cfg: dict[str, Any] = {
        'model': {'type': Line},
        'work_dir': str(tmp_path),
        'train_dataloader': points_loader(),
        'train_cfg': {'type': 'EpochTrainLoop', 'max_epochs': 2},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1}},
        'default_hooks': NO_HOOKS,
        'randomness': {'seed': 0},
        'loggers': [],
    }
    cfg.update(changes)
    return Runner.from_config(cfg)
