"""Run by torchrun from test_two_processes.py: trains with hooks, writes what came out as JSON."""

import json
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from openlab.engine import distributed
from openlab.engine.hooks.guard import NonFiniteError
from tests.engine.helpers import Points, collate, make_runner

FREEZE = {'type': 'FreezeHook', 'patterns': ['head.bias']}
CASES = {
    'freeze': ([FREEZE], None),
    'unfreeze': ([{**FREEZE, 'unfreeze_epoch': 1}], None),
    'skip': ([{'type': 'NonFiniteGuardHook', 'action': 'skip'}, {'type': 'SpikeGuardHook'},
              {'type': 'SyncBuffersHook'}, {'type': 'EMAHook'}], 3),
    'time': ([{'type': 'TimeLimitHook', 'max_time': 1e-3, 'margin': 0, 'interval': 1}], None),
    'raise': ([{'type': 'NonFiniteGuardHook'}], 3),
}


def loader(spoilt):
    """Batches of four over all processes; sample 3 is that of the last one."""
    points = Points(16)
    if spoilt is not None:
        points.inputs[spoilt] = float('nan')
    if not distributed.is_distributed():
        return DataLoader(points, batch_size=4, collate_fn=collate)
    sampler = DistributedSampler(points, shuffle=False)
    return DataLoader(points, batch_size=2, collate_fn=collate, sampler=sampler)


def train(folder, hooks, spoilt):
    """Weights after two epochs, iterations, and the error if there was one."""
    runner = make_runner(folder, train_dataloader=loader(spoilt), custom_hooks=hooks)
    try:
        runner.train()
        error = None
    except NonFiniteError as caught:
        error = str(caught)
    head = runner.unwrapped_model.head
    weights = torch.cat([head.weight.detach().flatten(), head.bias.detach()])
    return {'weights': weights.tolist(), 'iter': runner.iter, 'error': error}


def main(folder):
    distributed.start_process_group()
    results = {name: train(folder / name, *case) for name, case in CASES.items()}
    file = folder / f'rank{distributed.rank()}.json'
    file.write_text(json.dumps(results))
    distributed.end_rank(0)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
