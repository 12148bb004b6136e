import random

import numpy as np
import pytest
import torch

from openlab import device as chips


def test_the_environment_variable_chooses_the_device(monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    assert chips.get_device() == torch.device('cpu')
    assert chips.device_count() == 0


@pytest.mark.parametrize('wanted', ['cuda:97', 'quantum'])
def test_a_device_that_is_not_there_is_refused_with_what_is(monkeypatch, wanted):
    monkeypatch.setenv('OPENLAB_DEVICE', wanted)
    with pytest.raises(ValueError, match=rf"OPENLAB_DEVICE='{wanted}'.*accepted.*cpu"):
        chips.get_device()


@pytest.mark.parametrize('wanted', ['gpu', 'cuda:99', 'meta'])
def test_a_named_device_that_is_not_there_is_refused_with_what_is(wanted):
    with pytest.raises(ValueError, match=rf"^--device '{wanted}' is .*accepted.*: cpu"):
        chips.check_device(wanted, '--device ')
    assert chips.check_device('cpu') == torch.device('cpu')


def test_generators_repeat_their_numbers_after_their_state_is_put_back():
    state = chips.rng_state()
    first = (random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist())
    chips.set_rng_state(state)
    assert (random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist()) == first


def test_generator_state_loads_without_running_code(tmp_path):
    torch.save(chips.rng_state(), tmp_path / 'rng.pt')
    loaded = torch.load(tmp_path / 'rng.pt', weights_only=True)
    first = np.random.rand(3).tolist()
    chips.set_rng_state(loaded)
    assert np.random.rand(3).tolist() == first


def test_the_cpu_has_a_complete_row_of_capabilities():
    cpu = torch.device('cpu')
    row = chips.capabilities(cpu)
    assert row.backend == 'gloo' and row.bf16 and not row.pin_memory
    assert chips.backend_for(torch.device('cuda')) == 'nccl'


def test_memory_of_the_cpu_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    free, total = chips.memory_info()
    assert 0 < chips.memory_allocated() <= total
    assert chips.max_memory_allocated() >= chips.memory_allocated() * 0.9
    assert 0 < free <= total


def test_running_out_of_memory_is_recognised():
    assert chips.is_out_of_memory(RuntimeError('CUDA out of memory. Tried to allocate'))
    assert chips.is_out_of_memory(MemoryError())
    assert not chips.is_out_of_memory(RuntimeError('shape mismatch'))


def test_the_report_is_plain_data(monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    row = chips.describe()
    assert row['device'] == 'cpu'
    assert all(type(value) in (str, int, bool) for value in row.values())


@pytest.mark.gpu
def test_an_accelerator_reports_its_memory():
    device = chips.get_device()
    before = chips.memory_allocated(device)
    tensor = torch.ones(1 << 20, device=device)
    assert chips.memory_allocated(device) - before >= tensor.numel() * 4
