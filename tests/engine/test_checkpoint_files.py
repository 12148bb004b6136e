import json

import pytest
import torch

from openlab.engine.checkpoint_files import (
    CheckpointError,
    atomic_folder,
    plain,
    read_metadata,
    read_weights,
    recover_interrupted,
    resolve_checkpoint,
    split_shared,
    verify_checkpoint,
    write_meta,
    write_pointer,
    write_trainer_state,
    write_weights,
)


def checkpoint(folder, value=1.0, iteration=1):
    with atomic_folder(folder) as temporary:
        write_weights(temporary / 'model.safetensors', {'w': torch.full((4,), value)}, {})
        write_meta(temporary, {'iter': iteration, 'epoch': 0})
    return folder


def test_an_error_while_writing_leaves_nothing_and_keeps_the_old_one(tmp_path):
    folder = checkpoint(tmp_path / 'iter_1', 1.0)
    with pytest.raises(OSError, match='disk full'), atomic_folder(folder) as temporary:
        (temporary / 'model.safetensors').write_bytes(b'half')
        raise OSError('disk full')
    assert [p.name for p in tmp_path.iterdir()] == ['iter_1']
    assert read_weights(folder / 'model.safetensors')['w'][0] == 1.0


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path):
    checkpoint(tmp_path / 'iter_1', 1.0)
    checkpoint(tmp_path / 'iter_1', 2.0)
    assert [p.name for p in tmp_path.iterdir()] == ['iter_1']
    assert read_weights(tmp_path / 'iter_1' / 'model.safetensors')['w'][0] == 2.0


def test_what_a_killed_process_left_is_cleared_and_a_half_done_swap_undone(tmp_path):
    checkpoint(tmp_path / 'iter_1', 1.0).rename(tmp_path / '.old-iter_1')
    checkpoint(tmp_path / 'iter_2').rename(tmp_path / '.trash-iter_2')
    (tmp_path / '.tmp-iter_3').mkdir()
    recover_interrupted(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['iter_1']
    verify_checkpoint(tmp_path / 'iter_1')


@pytest.mark.parametrize(('harm', 'message'), [
    (lambda f: f.write_bytes(f.read_bytes()[:-1]), r'model\.safetensors has \d+ bytes instead'),
    (lambda f: f.write_bytes(f.read_bytes()[:-1] + b'!'), r'model\.safetensors was altered'),
    (lambda f: f.unlink(), r'model\.safetensors is missing'),
    (lambda f: f.with_name('meta.json').unlink(), r'meta\.json is missing'),
    (lambda f: f.with_name('meta.json').write_text('{"files'), r'meta\.json cannot be read'),
])
def test_damage_is_detected_and_the_file_named(tmp_path, harm, message):
    folder = checkpoint(tmp_path / 'iter_1')
    verify_checkpoint(folder)
    harm(folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match=message):
        verify_checkpoint(folder)


def test_tied_tensors_are_stored_once_and_read_under_both_names(tmp_path):
    weight = torch.rand(100, 3)
    base = torch.rand(10)
    state = {'embed.weight': weight, 'head.weight': weight, 'a': base[:6], 'b': base[4:]}
    unique, shared = split_shared(state)
    assert shared == {'head.weight': 'embed.weight'}
    assert unique.keys() == {'embed.weight', 'a', 'b'}
    write_weights(tmp_path / 'w.safetensors', state, {})
    assert (tmp_path / 'w.safetensors').stat().st_size < 2 * weight.numel() * 4
    loaded = read_weights(tmp_path / 'w.safetensors')
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_metadata_is_read_back_without_the_weights(tmp_path):
    metadata = {'classes': ['cat', 'dog'], 'config': {'model': {'depth': 18}}, 'seed': None}
    write_weights(tmp_path / 'w.safetensors', {'w': torch.ones(1)}, metadata)
    found = read_metadata(tmp_path / 'w.safetensors')
    assert {key: found[key] for key in metadata} == metadata


def test_odd_tensors_survive_bit_by_bit(tmp_path):
    state = {'empty': torch.empty(0, 3), 'scalar': torch.tensor(3), 'strided': torch.rand(4, 4).T,
             'bf16': torch.rand(3).bfloat16(), 'nan': torch.tensor([float('nan')])}
    write_weights(tmp_path / 'w.safetensors', state, {})
    for name, tensor in read_weights(tmp_path / 'w.safetensors').items():
        assert tensor.dtype == state[name].dtype
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, equal_nan=True)


def test_trainer_state_loads_without_running_code(tmp_path):
    state = {'a': [1, (2.5, None)], 'b': {'c': torch.ones(2), 3: 'x'}}
    write_trainer_state(tmp_path / 't.pt', state)
    loaded = torch.load(tmp_path / 't.pt', weights_only=True)
    assert loaded['a'] == state['a'] and loaded['b'][3] == 'x'


def test_a_value_that_is_not_plain_is_refused_with_its_key_path():
    import numpy as np

    with pytest.raises(TypeError, match=r'hooks\.MyHook\.scores\[1\] is a numpy\.float64'):
        plain({'hooks': {'MyHook': {'scores': [1.0, np.float64(2)]}}})


def test_pointers_and_run_folders_lead_to_a_checkpoint(tmp_path):
    parent = tmp_path / 'checkpoints'
    folder = checkpoint(parent / 'epoch_0002')
    write_pointer(parent, 'best', folder, metric='accuracy/top1', value=0.9)
    write_pointer(parent, 'last', folder)
    for source in (folder, parent / 'best', parent / 'best.json', parent, tmp_path):
        assert resolve_checkpoint(source) == folder
    assert json.loads((parent / 'best.json').read_text())['value'] == 0.9


@pytest.mark.parametrize('name', ['mobilenet-v2', 'openlab/mobilenet-v2'])
def test_a_name_of_the_zoo_is_answered_with_its_address(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f'no checkpoint at {name}; .*zoo://{name}; give'):
        resolve_checkpoint(name)
    with pytest.raises(FileNotFoundError, match='no checkpoint at mine; give a checkpoint folder'):
        resolve_checkpoint('mine')


def test_a_path_without_checkpoint_says_what_is_there(tmp_path):
    parent = tmp_path / 'checkpoints'
    write_pointer(parent, 'last', checkpoint(parent / 'epoch_0002'))
    (parent / 'notes.json').write_text('{"accuracy": 0.5}')
    with pytest.raises(FileNotFoundError, match=r'holds epoch_0002, last$'):
        resolve_checkpoint(parent / 'best')


def test_files_of_results_are_not_taken_for_checkpoints(tmp_path):
    (tmp_path / 'results.json').write_text('{"results": []}')
    with pytest.raises(FileNotFoundError, match='give a checkpoint folder') as error:
        resolve_checkpoint(tmp_path)
    assert 'holds' not in str(error.value)


def test_a_folder_without_weights_is_told_from_one_that_is_missing(tmp_path):
    folder = tmp_path / 'hub'
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    lacks = r'the folder is there but has no model\.safetensors and no checkpoints of a run; '
    with pytest.raises(FileNotFoundError, match=lacks + 'give a checkpoint folder'):
        resolve_checkpoint(folder)
    (folder / 'net.pth').touch()
    with pytest.raises(FileNotFoundError, match=lacks + r'in it is net\.pth'):
        resolve_checkpoint(folder)
    with pytest.raises(FileNotFoundError) as error:
        resolve_checkpoint(tmp_path / 'missing')
    assert 'the folder is there' not in str(error.value)
