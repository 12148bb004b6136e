import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from openlab.config.build import build
from openlab.engine.loggers import (
    JsonLinesLogger,
    LoggerGroup,
    MLflowLogger,
    ScalarLogger,
    TensorBoardLogger,
    WandbLogger,
    require,
)
from openlab.registry import LOGGERS
from openlab.utils.json_lines import read_rows


def write(folder, steps, start=0):
    logger = JsonLinesLogger()
    logger.start(folder, {}, start)
    for step in steps:
        logger.log({'epoch': 1, 'train/loss': 1 / step}, step)
    logger.close()


def test_each_row_is_one_line_with_every_digit(tmp_path):
    write(tmp_path, [1, 3])
    rows = list(read_rows(tmp_path / 'log.jsonl'))
    assert rows == [{'iter': 1, 'epoch': 1, 'train/loss': 1.0},
                    {'iter': 3, 'epoch': 1, 'train/loss': 1 / 3}]


def test_a_resume_removes_the_rows_it_is_going_to_write_again(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, range(5, 10), start=4)
    assert [r['iter'] for r in read_rows(tmp_path / 'log.jsonl')] == list(range(1, 10))


def test_a_validation_repeated_by_a_resume_has_one_row(tmp_path):
    for start in (0, 2):
        logger = JsonLinesLogger()
        logger.start(tmp_path / 'a', {}, start)
        if start == 0:
            logger.log({'train/loss': 0.5}, 2)
        logger.log({'val/accuracy': 0.75}, 2)
        logger.log({'val/accuracy': 0.8}, 3)
        logger.close()
    rows = [(r['iter'], *r) for r in read_rows(tmp_path / 'a' / 'log.jsonl')]
    assert rows == [(2, 'iter', 'train/loss'), (2, 'iter', 'val/accuracy'),
                    (3, 'iter', 'val/accuracy')]


def test_a_new_run_in_an_old_folder_moves_the_old_rows_aside(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [1])
    write(tmp_path, [1])
    assert [r['iter'] for r in read_rows(tmp_path / 'log.jsonl')] == [1]
    assert [r['iter'] for r in read_rows(tmp_path / 'log.old1.jsonl')] == [1, 2]
    assert [r['iter'] for r in read_rows(tmp_path / 'log.old2.jsonl')] == [1]


def test_rows_written_before_a_kill_are_there_and_the_file_goes_on(tmp_path):
    script = textwrap.dedent('''
        import os, signal, sys
        from pathlib import Path
        from openlab.engine.loggers import JsonLinesLogger
        logger = JsonLinesLogger()
        logger.start(Path(sys.argv[1]), {}, 0)
        for step in (1, 2, 3):
            logger.log({'train/loss': 1 / step}, step)
        logger._stream.write('{"iter": 4, "train/lo')
        logger._stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    ''')
    done = subprocess.run([sys.executable, '-c', script, str(tmp_path)], check=False)
    assert done.returncode == -9
    write(tmp_path, [3, 4], start=2)
    rows = list(read_rows(tmp_path / 'log.jsonl'))
    assert [(r['iter'], r['train/loss']) for r in rows] == [(1, 1.0), (2, .5), (3, 1 / 3), (4, .25)]


def test_logging_before_start_is_an_error():
    with pytest.raises(RuntimeError, match='before start'):
        JsonLinesLogger().log({}, 1)


def test_tensorboard_shows_the_scalars_and_hides_what_a_resume_repeats(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, {1: 1.0, 2: 0.5, 3: 9.0}), (2, {3: 0.25})):
        logger = TensorBoardLogger()
        logger.start(tmp_path, {}, start)
        for step, value in values.items():
            logger.log({'train/loss': value}, step)
        logger.close()
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars('train/loss')] == [
        (1, 1.0), (2, 0.5), (3, 0.25)]


def test_tensorboard_is_not_imported_until_the_first_row(tmp_path):
    script = ('import sys; from pathlib import Path\n'
              'from openlab.engine.loggers import TensorBoardLogger\n'
              'logger = TensorBoardLogger(); logger.start(Path(sys.argv[1]), {}, 0)\n'
              'assert "tensorboard" not in sys.modules')
    subprocess.run([sys.executable, '-c', script, str(tmp_path)], check=True)


@pytest.mark.parametrize('logger,package', [(WandbLogger, 'wandb'), (MLflowLogger, 'mlflow')])
def test_a_logger_without_its_package_prints_the_line_that_installs_it(logger, package):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f'{package} is installed')
    with pytest.raises(ModuleNotFoundError, match=rf'pip install {package}$'):
        logger()


def test_require_is_silent_about_a_package_that_is_there():
    require('json', 'this test')


class FakeRun:
    """Enough of a W&B run to see what is sent."""

    def __init__(self, run_id):
        self.id = run_id
        self.sent = []
        self.is_finished = False

    def log(self, scalars, step):
        self.sent.append((step, scalars))

    def finish(self):
        self.is_finished = True


def test_wandb_continues_the_run_of_the_folder_on_a_resume(tmp_path, monkeypatch):
    calls, runs = [], []

    def init(**kwargs):
        calls.append(kwargs)
        runs.append(FakeRun(kwargs['id'] or 'fresh'))
        return runs[-1]

    package = tmp_path / 'site'
    package.mkdir()
    (package / 'wandb.py').write_text('')
    monkeypatch.syspath_prepend(str(package))
    import wandb

    monkeypatch.setattr(wandb, 'init', init, raising=False)
    try:
        for step in (0, 5):
            logger = WandbLogger(project='p')
            logger.start(tmp_path, {'lr': 1}, step)
            logger.log({'train/loss': 0.5}, step + 1)
            logger.close()
    finally:
        sys.modules.pop('wandb')
    assert [c['id'] for c in calls] == [None, 'fresh']
    assert runs[1].sent == [(6, {'train/loss': 0.5})]
    assert all(run.is_finished for run in runs)


class Collect(ScalarLogger):
    def __init__(self):
        self.rows = []

    def start(self, work_dir: Path, config, step):
        self.rows.append(('start', step))

    def log(self, scalars, step):
        self.rows.append((step, dict(scalars)))

    def close(self):
        self.rows.append('close')


def test_a_group_hands_each_row_to_all_loggers(tmp_path):
    group = LoggerGroup([Collect(), Collect()])
    group.start(tmp_path, {}, 3)
    group.log({'a': 1.0}, 4)
    group.close()
    for logger in group.loggers:
        assert logger.rows == [('start', 3), (4, {'a': 1.0}), 'close']


def test_the_default_is_json_lines_and_tensorboard_where_installed(monkeypatch):
    names = [type(logger).__name__ for logger in LoggerGroup().loggers]
    assert names[0] == 'JsonLinesLogger'
    assert ('TensorBoardLogger' in names) == (importlib.util.find_spec('tensorboard') is not None)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert [type(logger).__name__ for logger in LoggerGroup().loggers] == ['JsonLinesLogger']


def test_loggers_are_built_by_name():
    logger = build({'type': 'JsonLinesLogger', 'filename': 'a.jsonl'}, LOGGERS)
    assert isinstance(logger, JsonLinesLogger)
    assert logger.filename == 'a.jsonl'
