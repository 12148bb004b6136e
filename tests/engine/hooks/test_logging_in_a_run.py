"""Logger, timer and run folder hooks in the real engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openlab.engine.hooks.base import Hook
from openlab.utils.json_lines import read_rows
from tests.engine.helpers import Error, make_runner, points_loader

HOOKS = {'logger': {'type': 'LoggerHook', 'interval': 2, 'display': 'plain'},
         'timer': {'type': 'TimerHook'}, 'run_folder': None,
         'checkpoint': {'type': 'CheckpointHook', 'by_epoch': False, 'interval': 1}}


class KillAt(Hook):
    """Ends the process as a power cut does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            next(h for h in runner.hooks if type(h).__name__ == 'CheckpointHook')._saver.wait()
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, *hooks, epochs=4, **changes):
    runner = make_runner(
        folder, train_cfg={'type': 'EpochTrainLoop', 'max_epochs': epochs},
        val_dataloader=points_loader(), val_evaluator={'type': Error}, custom_hooks=list(hooks),
        **{'default_hooks': HOOKS, 'loggers': [{'type': 'JsonLinesLogger'}], **changes})
    runner.train()
    return runner


def reproducible(folder):
    """Rows without what a clock or the memory says."""
    return [{k: v for k, v in row.items() if not k.startswith(('speed/', 'memory/'))}
            for row in read_rows(Path(folder) / 'log.jsonl')]


@pytest.mark.parametrize('iteration', [4, 7])
def test_the_log_after_kill_and_resume_equals_that_of_an_unbroken_run(tmp_path, iteration):
    run(tmp_path / 'whole')
    code = (f'from tests.engine.hooks.test_logging_in_a_run import KillAt, run\n'
            f'run({str(tmp_path / "parts")!r}, KillAt({iteration}))')
    done = subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[3], check=False,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    before = reproducible(tmp_path / 'parts')
    assert 0 < len(before) < len(reproducible(tmp_path / 'whole'))
    run(tmp_path / 'parts', resume=True)
    assert reproducible(tmp_path / 'parts') == reproducible(tmp_path / 'whole')


def test_rows_count_epochs_and_iterations_from_one(tmp_path):
    run(tmp_path, epochs=2)
    rows = list(read_rows(tmp_path / 'log.jsonl'))
    assert [(r['iter'], r['epoch']) for r in rows if 'train/loss' in r] == [(2, 1), (4, 2), (6, 2)]
    assert [(r['iter'], r['epoch']) for r in rows if 'val/error/mean' in r] == [(3, 1), (6, 2)]
    assert rows[0]['train/lr'] == 0.1
    assert rows[-2]['speed/items_per_second'] > 0


def test_iteration_based_training_logs_no_epoch(tmp_path):
    runner = make_runner(tmp_path, train_cfg={'type': 'IterTrainLoop', 'max_iters': 4},
                         default_hooks=HOOKS, loggers=[{'type': 'JsonLinesLogger'}])
    runner.train()
    rows = list(read_rows(tmp_path / 'log.jsonl'))
    assert [r['iter'] for r in rows] == [2, 4]
    assert not any('epoch' in r for r in rows)


def test_validating_alone_leaves_the_log_of_the_training_as_it_is(tmp_path):
    run(tmp_path, epochs=1)
    before = (tmp_path / 'log.jsonl').read_text()
    make_runner(tmp_path, default_hooks=HOOKS, loggers=[{'type': 'JsonLinesLogger'}],
                val_dataloader=points_loader(), val_evaluator={'type': Error}).val()
    assert (tmp_path / 'log.jsonl').read_text() == before
    assert not list(tmp_path.glob('log.old*'))


def test_every_start_leaves_its_record_and_training_leaves_curves(tmp_path):
    run(tmp_path, epochs=1, default_hooks={**HOOKS, 'run_folder': {'type': 'RunFolderHook'}})
    (record,) = (tmp_path / 'starts').glob('*/run.json')
    assert json.loads(record.read_text())['seed'] == 0
    assert (tmp_path / 'curves.png').stat().st_size > 5000
