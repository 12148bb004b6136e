import json
import os
import time
from types import SimpleNamespace

import cv2

from openlab.engine.hooks import run_folder
from openlab.engine.hooks.run_folder import RunFolderHook
from openlab.utils.json_lines import encode_row


class PlainConfig(dict):
    overrides = ('train_cfg.max_epochs=2',)

    def dump(self, file):
        file.write_text(f'answer = {self["answer"]}\n')


def runner_in(folder, rank=0):
    return SimpleNamespace(rank=rank, world_size=1, work_dir=str(folder), log_dir=str(folder),
                           timestamp='20260101_000000', cfg=PlainConfig(answer=42), seed=5)


def write_log(folder, count):
    (folder / 'log.jsonl').write_text(''.join(
        encode_row({'iter': i, 'train/loss': 1 / i}) for i in range(1, count)))


def test_a_run_leaves_its_config_its_record_and_its_curves(tmp_path):
    hook, runner = RunFolderHook(), runner_in(tmp_path)
    hook.before_run(runner)
    assert not (tmp_path / 'config.py').exists()  # it may be a test of another config
    hook.before_train(runner)
    write_log(tmp_path, 5)
    hook.after_train(runner)
    hook.after_run(runner)
    start = tmp_path / 'starts' / '20260101_000000'
    assert (tmp_path / 'config.py').read_text() == 'answer = 42\n'
    assert (start / 'config.py').read_text() == 'answer = 42\n'
    record = json.loads((start / 'run.json').read_text())
    assert record['overrides'] == ['train_cfg.max_epochs=2']
    assert record['seed'] == 5
    assert cv2.imread(str(tmp_path / 'curves.png')).shape[0] > 100


def test_drawing_curves_does_not_hold_up_training(tmp_path):
    hook, runner = RunFolderHook(), runner_in(tmp_path)
    hook.before_run(runner)
    write_log(tmp_path, 5)
    started = time.perf_counter()
    hook.after_val(runner)
    hook.after_val(runner)  # the first picture is still being drawn
    assert time.perf_counter() - started < 0.2
    assert not (tmp_path / 'curves.png').exists()
    hook.after_run(runner)
    assert (tmp_path / 'curves.png').exists()


def test_drawing_pauses_when_it_took_more_than_its_share(tmp_path):
    hook, runner = RunFolderHook(share=0.05), runner_in(tmp_path)
    hook.before_run(runner)
    write_log(tmp_path, 5)
    hook._drawing_seconds = 1e6
    hook.after_val(runner)
    hook.after_run(runner)
    assert not (tmp_path / 'curves.png').exists()


def test_a_picture_that_cannot_be_drawn_is_reported_and_training_goes_on(tmp_path, capsys):
    hook, runner = RunFolderHook(), runner_in(tmp_path)
    hook.before_run(runner)
    write_log(tmp_path, 5)
    (tmp_path / 'curves.png').mkdir()
    hook.after_train(runner)
    hook.after_run(runner)
    assert 'curves.png could not be drawn' in capsys.readouterr().err


def test_a_run_that_ends_before_it_logs_anything_says_nothing_of_pictures(tmp_path, capsys):
    hook, runner = RunFolderHook(), runner_in(tmp_path)
    hook.before_run(runner)
    (tmp_path / 'log.jsonl').write_text('{"message": "a folder was made"}\n')
    hook.on_exception(runner, ValueError('a broken image'))
    assert capsys.readouterr().err == '' and not (tmp_path / 'curves.png').exists()


def test_only_the_main_process_writes(tmp_path):
    hook, runner = RunFolderHook(), runner_in(tmp_path, rank=1)
    hook.before_run(runner)
    write_log(tmp_path, 5)
    hook.after_train(runner)
    hook.after_run(runner)
    assert [p.name for p in tmp_path.iterdir()] == ['log.jsonl']


def test_only_pictures_in_the_middle_of_training_are_drawn_at_low_priority(tmp_path):
    hook, runner = RunFolderHook(), runner_in(tmp_path)
    hook.before_run(runner)
    write_log(tmp_path, 5)
    hook.after_val(runner)
    middle = hook._drawing
    assert os.getpriority(os.PRIO_PROCESS, middle.pid) == 15
    hook.after_train(runner)
    assert middle.poll() is not None  # replaced, not waited for
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, hook._drawing.pid) == own
    hook.after_run(runner)
    assert (tmp_path / 'curves.png').exists()


def test_a_picture_that_takes_too_long_is_given_up_and_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_folder, '_PATIENCE', 0.01)
    hook, runner = RunFolderHook(), runner_in(tmp_path)
    hook.before_run(runner)
    write_log(tmp_path, 5)
    hook.after_train(runner)
    hook.after_run(runner)
    assert 'could not be drawn: no picture after 0.01 s' in capsys.readouterr().err
    assert not (tmp_path / 'curves.png').exists()
