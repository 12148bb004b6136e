from __future__ import annotations

import json
from pathlib import Path

import pytest

from openlab.engine.launch import launch

# Both trainings see the same twelve points before every step: in one batch, or in micro-batches
# of unequal size over two processes.
SCRIPT = '''
import json
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
import torch

from openlab.engine import distributed
from tests.engine.helpers import Line, Points, collate, make_runner

PIECES = {{0: [[0, 1, 2, 3, 4], [5]], 1: [[6, 7], [8, 9, 10, 11]]}}


class Pieces:
    batch_size = 3
    sampler = None

    def __init__(self, pieces):
        self.pieces = pieces
        self.dataset = Points(12)

    def __len__(self):
        return len(self.pieces)

    def __iter__(self):
        for piece in self.pieces:
            yield collate([self.dataset[i] for i in piece])


distributed.start_process_group()
alone = distributed.world_size() == 1
pieces = [list(range(12))] if alone else PIECES[distributed.rank()]
runner = make_runner(
    {folder!r}, train_dataloader=Pieces(pieces), train_cfg={{'max_epochs': 4}},
    optim_wrapper={{'optimizer': {{'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
                   'accumulate': len(pieces)}})
runner.train()
if distributed.is_main_process():
    weights = {{k: v.tolist() for k, v in runner.unwrapped_model.state_dict().items()}}
    Path({folder!r}, 'alone.json' if alone else 'two.json').write_text(json.dumps(weights))
distributed.end_rank(0)  # as the command ends: a rank that just exits may abort
'''


@pytest.mark.slow
def test_uneven_micro_batches_over_two_processes_equal_one_batch(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    script = tmp_path / 'train.py'
    root = str(Path(__file__).resolve().parents[2])
    script.write_text(SCRIPT.format(root=root, folder=str(tmp_path)))
    for processes in (1, 2):
        assert launch([], processes, script=str(script)) == 0
    alone, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in ('alone', 'two'))
    assert alone['head.bias'] == pytest.approx(two['head.bias'], abs=1e-6)
    assert alone['head.weight'][0] == pytest.approx(two['head.weight'][0], abs=1e-6)
