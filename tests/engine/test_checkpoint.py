import threading
import time

import pytest
import torch

from openlab.engine.checkpoint import (
    AsyncSaver,
    CheckpointError,
    CheckpointParts,
    find_resumable,
    load_trainer_state,
    save_checkpoint,
)
from openlab.engine.checkpoint_files import read_weights


def parts(iteration, value=0.0):
    model = {'w': torch.full((8,), value)}
    return CheckpointParts(model, {'optimizer': {'m': torch.full((8,), value)}},
                           position={'iter': iteration, 'epoch': 0})


def run_with(tmp_path, *iterations):
    for iteration in iterations:
        save_checkpoint(parts(iteration), tmp_path / 'checkpoints' / f'iter_{iteration:08d}')
    return tmp_path / 'checkpoints'


def test_the_newest_checkpoint_is_resumed_from(tmp_path):
    folder = run_with(tmp_path, 9, 100, 20)
    assert find_resumable(tmp_path) == folder / 'iter_00000100'
    assert find_resumable(tmp_path / 'elsewhere') is None


@pytest.mark.parametrize('file', ['model.safetensors', 'trainer.pt', 'meta.json'])
def test_a_damaged_newest_one_is_named_and_the_one_before_it_used(tmp_path, caplog, file):
    folder = run_with(tmp_path, 10, 20)
    damaged = folder / 'iter_00000020' / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert find_resumable(tmp_path) == folder / 'iter_00000010'
    assert 'iter_00000020' in caplog.text and file in caplog.text


def test_a_save_that_was_killed_is_not_seen(tmp_path):
    folder = run_with(tmp_path, 10)
    (folder / '.tmp-iter_00000020').mkdir()
    (folder / '.tmp-iter_00000020' / 'model.safetensors').write_bytes(b'half')
    assert find_resumable(tmp_path) == folder / 'iter_00000010'
    assert [p.name for p in folder.iterdir()] == ['iter_00000010']


def test_an_asynchronous_save_holds_the_values_of_its_moment(tmp_path):
    saver = AsyncSaver()
    gate = threading.Event()
    saver.submit(gate.wait)  # keeps the writer busy
    weight = torch.zeros(4)
    threading.Timer(0.05, gate.set).start()
    state = CheckpointParts({'w': weight, 'tied': weight}, {'m': weight})
    save_checkpoint(state, tmp_path / 'iter_1', blocking=False, saver=saver)
    weight.fill_(7)
    saver.wait()
    loaded = read_weights(tmp_path / 'iter_1' / 'model.safetensors')
    assert loaded['w'].tolist() == [0] * 4 and loaded['tied'].tolist() == [0] * 4
    assert load_trainer_state(tmp_path / 'iter_1')['m'].tolist() == [0] * 4


def test_one_save_at_a_time(tmp_path):
    saver, running, most = AsyncSaver(), [], []

    def write():
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    for _ in range(3):
        saver.submit(write)
    saver.wait()
    assert most == [1, 1, 1]


def test_the_error_of_a_background_save_surfaces_once(tmp_path):
    saver = AsyncSaver()
    (tmp_path / 'file').write_text('in the way')
    save_checkpoint(parts(1), tmp_path / 'file' / 'iter_1', blocking=False, saver=saver)
    with pytest.raises(CheckpointError, match=r'saving a checkpoint failed.*file'):
        saver.wait()
    saver.wait()


def test_state_that_is_not_plain_is_refused_before_anything_is_written(tmp_path):
    bad = CheckpointParts({'w': torch.ones(1)}, {'hook': {'history': object()}})
    with pytest.raises(TypeError, match=r'hook\.history is a builtins\.object'):
        save_checkpoint(bad, tmp_path / 'iter_1', blocking=False, saver=AsyncSaver())
    assert list(tmp_path.iterdir()) == []


def test_weights_alone_are_no_state_to_resume_from(tmp_path):
    folder = tmp_path / 'iter_1'
    save_checkpoint(CheckpointParts({'w': torch.ones(1)}), folder)
    assert find_resumable(tmp_path) is None
    with pytest.raises(CheckpointError, match=r'weights only.*load_from'):
        load_trainer_state(folder)
