"""Hooks that processes must agree on, in two processes against one with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.hooks.two_processes import CASES, train

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
               '-m', 'tests.engine.hooks.two_processes', str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENLAB_DEVICE': 'cpu'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in (0, 1)]


@pytest.mark.parametrize('case', ['freeze', 'unfreeze', 'skip'])
def test_two_processes_end_where_one_does(ranks, tmp_path, case):
    assert ranks[0][case]['weights'] == ranks[1][case]['weights']
    alone = train(tmp_path, *CASES[case])
    assert ranks[0][case]['weights'] == pytest.approx(alone['weights'], rel=1e-5)
    assert ranks[0][case]['iter'] == alone['iter'] == 8


def test_the_frozen_bias_is_where_it_began(ranks):
    assert ranks[0]['freeze']['weights'][-1] != ranks[0]['unfreeze']['weights'][-1]


def test_all_processes_stop_at_the_same_iteration(ranks):
    assert ranks[0]['time']['iter'] == ranks[1]['time']['iter'] == 1


def test_the_process_with_the_bad_batch_is_named_by_all(ranks):
    for rank in (0, 1):
        error = ranks[rank]['raise']['error']
        assert 'rank 1: first module with a bad output' in error
        assert 'bad images: 3' in error
        assert 'rank 0' not in error
