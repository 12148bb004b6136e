"""Several processes, started by the real launcher; on the CPU they talk through gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openlab.engine.checkpoint import find_resumable
from openlab.engine.launch import launch

from .training_program import make_runner

ROOT = Path(__file__).parents[2]
PROGRAM = 'import sys; from openlab.engine.launch import launch; ' \
          'sys.exit(launch(sys.argv[2:], int(sys.argv[1]), module="tests.engine.training_program"))'
SAME = {'norm': False, 'dropout': 0, 'workers': 0, 'size': 32, 'epochs': 2, 'interval': 0}


def run(processes, work_dir, timeout=100, **options):
    arguments = [f'{key}={json.dumps(value)}' for key, value in options.items()]
    return subprocess.run(
        [sys.executable, '-c', PROGRAM, str(processes), str(work_dir), *arguments],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1', 'OPENLAB_DEVICE': 'cpu'},
        capture_output=True, text=True, timeout=timeout)


def losses(work_dir):
    rows = [json.loads(line) for line in (Path(work_dir) / 'log.jsonl').read_text().splitlines()]
    return [value for row in rows for name, value in row.items()
            if name in ('train/loss', 'train/grad_norm', 'val/error/mean')]


def test_more_processes_than_devices_or_none_are_refused(monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    with pytest.raises(ValueError, match='at least 1 process'):
        launch([], 0)


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['ddp', 'fsdp2'])
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, strategy):
    make_runner(str(tmp_path / 'one'), batch_size=8, **SAME).train()
    done = run(2, tmp_path / 'two', batch_size=4, strategy={'type': strategy}, **SAME)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / 'two') == pytest.approx(losses(tmp_path / 'one'), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(('first', 'second'), [(2, 1), (1, 2)])
def test_a_sharded_checkpoint_is_resumed_by_another_number_of_processes(tmp_path, first, second):
    options = {**SAME, 'accumulate': 1, 'strategy': {'type': 'fsdp2'}, 'interval': 4}
    make_runner(str(tmp_path / 'whole'), batch_size=8, **{**options, 'strategy': None}).train()
    done = run(first, tmp_path / 'parts', batch_size=8 // first, die_rank=0, at_step=5, **options)
    assert done.returncode != 0
    assert find_resumable(tmp_path / 'parts').name == 'iter_00000004'
    done = run(second, tmp_path / 'parts', batch_size=8 // second, **options)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / 'parts') == pytest.approx(losses(tmp_path / 'whole'), rel=1e-5)
    folder = tmp_path / 'parts' / 'checkpoints' / 'iter_00000008'
    assert (folder / 'sharded').is_dir() and (folder / 'model.safetensors').is_file()


@pytest.mark.slow
def test_two_processes_resume_digit_for_digit(tmp_path):
    options = {'workers': 0, 'size': 40, 'interval': 3, 'epochs': 2, 'accumulate': 2}
    assert run(2, tmp_path / 'whole', **options).returncode == 0
    assert run(2, tmp_path / 'parts', die_rank=1, at_step=8, **options).returncode != 0
    assert run(2, tmp_path / 'parts', **options).returncode == 0
    assert losses(tmp_path / 'parts') == losses(tmp_path / 'whole')


@pytest.mark.slow
def test_a_hanging_rank_is_named_with_the_line_it_hangs_in(tmp_path):
    done = run(2, tmp_path / 'run', workers=0, hang_rank=1, timeout_s=3)
    assert done.returncode == 75
    assert 'rank 1 is the one the others wait for: at step 5 (forward and backward)' in done.stderr
    assert 'training_program.py' in done.stderr and 'before_train_iter' in done.stderr


@pytest.mark.slow
def test_a_dead_rank_is_named_with_where_it_stood(tmp_path):
    done = run(2, tmp_path / 'run', workers=0, die_rank=1)
    assert done.returncode == 137
    assert 'rank 1 was ended by SIGKILL at step 5 (forward and backward)' in done.stderr
