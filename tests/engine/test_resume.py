"""A training that is killed and resumed logs the same numbers as one that is not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from openlab.engine.checkpoint import find_resumable

from ..test_configs import TASKS
from .training_program import make_runner

ROOT = Path(__file__).parents[2]
TIMED = ('speed/', 'memory/')


def start(work_dir, *arguments):
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.engine.training_program', str(work_dir), *arguments],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1', 'OPENLAB_DEVICE': 'cpu'},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def numbers(work_dir):
    """Rows of the log without what a clock decides."""
    rows = [json.loads(line) for line in (Path(work_dir) / 'log.jsonl').read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def train(work_dir, **options):
    runner = make_runner(str(work_dir), workers=0, **options)
    runner.train()
    return runner


class Stop(Exception):
    pass


def train_until(work_dir, iteration, **options):
    """Train here and break off after an iteration, as a crash would: nothing more is saved."""
    runner = make_runner(str(work_dir), workers=0, **options)
    real = runner.call_hook

    def call_hook(name, **given):
        real(name, **given)
        if name == 'after_train_iter' and runner.iter + 1 == iteration:
            raise Stop

    runner.call_hook = call_hook
    with pytest.raises(Stop):
        runner.train()


@pytest.mark.parametrize('options', [
    {},
    {'by_epoch': True, 'interval': 1},
    {'log_interval': 3, 'accumulate': 3, 'interval': 4},
    {'interval': 7},
    {'iters': 23, 'epochs': 1},
    {'optimizer': 'SGD', 'ema': False, 'validate': False, 'accumulate': 1},
], ids=['mid-epoch', 'by-epoch', 'windows', 'end-of-epoch', 'by-iteration', 'plain'])
def test_a_broken_off_training_continues_digit_for_digit(tmp_path, options):
    whole = train(tmp_path / 'whole', **options)
    for iteration in (5, 10, 18):
        train_until(tmp_path / 'parts', iteration, **options)
    parts = train(tmp_path / 'parts', **options)
    assert numbers(tmp_path / 'parts') == numbers(tmp_path / 'whole')
    expected, found = whole.unwrapped_model.state_dict(), parts.unwrapped_model.state_dict()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert find_resumable(tmp_path / 'parts').name == find_resumable(tmp_path / 'whole').name


def test_the_best_checkpoint_is_the_same_after_a_resume(tmp_path):
    train(tmp_path / 'whole')
    train_until(tmp_path / 'parts', 16)
    train(tmp_path / 'parts')
    best = [json.loads((tmp_path / name / 'checkpoints' / 'best.json').read_text())
            for name in ('whole', 'parts')]
    assert best[0] == best[1]


def test_a_damaged_newest_checkpoint_costs_only_the_way_from_the_one_before(tmp_path, caplog):
    train(tmp_path / 'whole', interval=4)
    train_until(tmp_path / 'parts', 14, interval=4)
    newest = find_resumable(tmp_path / 'parts')
    weights = newest / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-7])
    caplog.set_level('WARNING', logger='openlab')
    runner = make_runner(str(tmp_path / 'parts'), workers=0, interval=4)
    runner.logger.propagate = True
    runner.train()
    assert f'skipping the damaged checkpoint {newest.name}' in caplog.text
    assert numbers(tmp_path / 'parts') == numbers(tmp_path / 'whole')


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_digit(tmp_path):
    options = ('sleep=0.05', 'interval=2')
    whole = start(tmp_path / 'whole', 'interval=2')
    parts, chance = tmp_path / 'parts', random.Random(0)
    kills = 0
    while True:
        process = start(parts, *options)
        log, deadline = parts / 'log.jsonl', time.monotonic() + 60
        known = log.read_text() if log.exists() else ''
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_text() != known:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.0))
        if process.poll() is None and kills < 4:
            process.send_signal(signal.SIGKILL)
            kills += 1
            process.communicate()
            continue
        assert process.communicate(timeout=100)[1] is not None and process.returncode == 0
        break
    assert whole.wait(timeout=100) == 0
    assert kills >= 2
    assert numbers(parts) == numbers(tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', sorted({name.partition('/')[0] for name in TASKS}))
def test_every_algorithm_continues_digit_for_digit_after_kill_9(tmp_path, algorithm):
    options = {'algorithm': algorithm, 'size': 8, 'batch_size': 2, 'interval': 2, 'iters': 7,
               'validate': False, 'workers': 0}
    words = [f'{key}={json.dumps(value)}' for key, value in options.items()]
    whole = start(tmp_path / 'whole', *words)
    killed = start(tmp_path / 'parts', *words, 'die_rank=0', 'at_step=5')
    assert killed.communicate(timeout=300)[1] is not None
    assert killed.returncode == -signal.SIGKILL
    # Saves go on beside the training: that of iteration 4 may or may not be complete.
    assert find_resumable(tmp_path / 'parts') is not None
    for process in (start(tmp_path / 'parts', *words), whole):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert numbers(tmp_path / 'parts') == numbers(tmp_path / 'whole')
    assert len(numbers(tmp_path / 'whole')) >= 6
    expected, found = (load_file(find_resumable(tmp_path / name) / 'model.safetensors')
                       for name in ('whole', 'parts'))
    assert all(expected[name].equal(found[name]) for name in expected)


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_save_changes_no_digit(tmp_path):
    assert start(tmp_path / 'whole').wait(timeout=100) == 0
    parts = tmp_path / 'parts'
    for call in (1, 4, 9, 23):
        process = start(parts, f'kill_at_sync={call}')
        process.communicate(timeout=100)
        assert process.returncode == -signal.SIGKILL
    assert start(parts).wait(timeout=100) == 0
    assert numbers(parts) == numbers(tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_cleanly(tmp_path, number):
    whole = start(tmp_path / 'whole', 'interval=0')
    parts = tmp_path / 'parts'
    process = start(parts, 'sleep=0.1', 'interval=0')
    log = parts / 'log.jsonl'
    while process.poll() is None and not (log.exists() and len(log.read_text()) > 500):
        time.sleep(0.01)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert 'Traceback' not in errors
    stopped_at = numbers(parts)[-1]['iter']
    assert find_resumable(parts).name.endswith(f'{stopped_at:08d}')
    assert start(parts, 'interval=0').wait(timeout=100) == 0
    assert whole.wait(timeout=100) == 0
    assert numbers(parts) == numbers(tmp_path / 'whole')
