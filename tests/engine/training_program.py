"""A whole small training as a program, for tests that kill it or run it in several processes.

``python -m tests.engine.training_program WORK_DIR [KEY=JSON ...]``
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from openlab.algorithms.base import Algorithm
from openlab.engine import checkpoint_files, distributed
from openlab.engine.hooks.base import Hook
from openlab.engine.runner import Runner
from openlab.structures.data_sample import DataSample

from .helpers import Error, Points, collate

DEFAULTS: dict[str, Any] = {
    'epochs': 4, 'batch_size': 4, 'size': 28, 'workers': 2, 'interval': 3, 'accumulate': 2,
    'dropout': 0.3, 'norm': True, 'log_interval': 1, 'sleep': 0.0, 'strategy': None, 'ema': True,
    'by_epoch': False, 'resume': True, 'hang_rank': None, 'die_rank': None, 'timeout_s': 1800,
    'kill_at_sync': None, 'validate': True, 'keep': 3, 'optimizer': 'AdamW', 'at_step': 5,
    'iters': None, 'noise': True, 'algorithm': None,
}


class Net(Algorithm):
    """Two layers with squared error; dropout draws from the generator of the process."""

    def __init__(self, dropout: float, norm: bool):
        super().__init__()
        middle = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.layers = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 8)])
        self.norm, self.dropout, self.head = middle, nn.Dropout(dropout), nn.Linear(8, 1)

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        hidden = self.norm(self.layers[0](inputs)).relu()
        return self.head(self.dropout(self.layers[1](hidden).relu()))[:, 0]

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        target = torch.stack([s.extra['target'] for s in samples])
        return {'loss_square': (outputs - target).square().mean()}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        return [DataSample(meta=s.meta, extra={'value': o}) for o, s in zip(outputs, samples)]


class NoisyPoints(Points):
    """Points with an augmentation that draws from numpy's generator, in the worker."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return {**item, 'inputs': item['inputs'] + float(np.random.randn()) * 0.1}


class Items(Dataset):
    """The items of a batch with which ``tests/test_configs.py`` tests an algorithm."""

    def __init__(self, batch: dict[str, Any]):
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch['samples'])

    def __getitem__(self, index: int) -> dict[str, Any]:
        # A loss may write into a sample; the next epoch must not see it.
        inputs = self.batch['inputs']
        views = [view[index] for view in inputs] if isinstance(inputs, list) else inputs[index]
        return {'inputs': views,
                'sample': copy.deepcopy(self.batch['samples'][index])}


def parts_of(algorithm: str | None, options: dict[str, Any]) -> tuple[nn.Module, Dataset]:
    """The model and the data to train it on."""
    if algorithm is None:
        dataset = (NoisyPoints if options['noise'] else Points)(options['size'])
        return Net(options['dropout'], options['norm']), dataset
    from tests.test_configs import build_tiny, task_of, tiny_model_of

    cfg = tiny_model_of(algorithm)
    if 'teacher_weights' in cfg:  # a download; a drawn teacher is as good here
        cfg['teacher_weights'] = None
    return build_tiny(cfg), Items(task_of(cfg).batch(options['size']))


class Trouble(Hook):
    """Sleeps a little in each step; on one rank hangs or dies in the middle of a step."""

    def __init__(self, sleep: float, hang_rank: int | None, die_rank: int | None, at_step: int):
        self.sleep, self.hang_rank, self.die_rank = sleep, hang_rank, die_rank
        self.at_step = at_step

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        time.sleep(self.sleep)
        if runner.iter == self.at_step and distributed.rank() == self.hang_rank:
            time.sleep(1000)
        if runner.iter == self.at_step and distributed.rank() == self.die_rank:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_sync(number: int) -> None:
    """Let the process die at its ``number``-th call to the disk: in the middle of a save."""
    calls = [0]
    real = checkpoint_files.sync

    def sync(path: Path) -> None:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path)

    checkpoint_files.sync = sync


def make_runner(work_dir: str, **changes: Any) -> Runner:
    options = {**DEFAULTS, **changes}
    torch.manual_seed(0)  # the model is made before the runner seeds
    model, dataset = parts_of(options['algorithm'], options)
    loader = {'dataset': dataset, 'batch_size': options['batch_size'],
              'num_workers': options['workers'],
              **({} if options['algorithm'] else {'collate': collate}),
              'sampler': {'type': 'DefaultSampler', 'shuffle': True}}
    val = {'dataset': Points(6, seed=1), 'batch_size': 3, 'num_workers': 0, 'collate': collate}
    custom: list[Any] = [Trouble(options['sleep'], options['hang_rank'], options['die_rank'],
                                 options['at_step'])]
    if options['ema']:
        custom.append({'type': 'EMAHook', 'momentum': 0.05})
    loop = ({'max_iters': options['iters'], 'val_interval': 5} if options['iters'] else
            {'max_epochs': options['epochs']})
    return Runner.from_config({
        'model': model,
        'work_dir': work_dir,
        'train_dataloader': loader,
        'train_cfg': loop,
        'val_dataloader': val if options['validate'] else None,
        'val_evaluator': {'type': Error},
        'optim_wrapper': {
            'optimizer': {'type': options['optimizer'], 'lr': 0.02},
            'accumulate': options['accumulate'], 'clip_grad': {'max_norm': 1.0}},
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 0.1, 'total_iters': 6, 'by_epoch': False},
            {'type': 'CosineAnnealingLR', 'T_max': options['epochs'],
             'by_epoch': not options['iters']}],
        'default_hooks': {
            'logger': {'interval': options['log_interval']},
            'run_folder': None,
            'watchdog': {'type': 'WatchdogHook', 'timeout_s': options['timeout_s']},
            'checkpoint': {'interval': options['interval'], 'by_epoch': options['by_epoch'],
                           'keep': options['keep'],
                           'save_best': 'error/mean' if options['validate'] else None}},
        'custom_hooks': custom,
        'loggers': [{'type': 'JsonLinesLogger'}],
        'randomness': {'seed': 0},
        'strategy': options['strategy'],
        'resume': options['resume'],
    })


def main(argv: list[str]) -> None:
    changes = {key: json.loads(text) for key, text in (a.split('=', 1) for a in argv[1:])}
    torch.set_num_threads(1)
    if changes.get('kill_at_sync'):
        kill_in_sync(changes['kill_at_sync'])
    runner = make_runner(argv[0], **changes)
    runner.train()
    distributed.end_rank(0)


if __name__ == '__main__':
    main(sys.argv[1:])
