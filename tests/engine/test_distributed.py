"""What the helpers do in a single process; two processes are in ``test_launch``."""

import logging

import pytest
import torch

from openlab.engine import distributed


def test_one_process_is_rank_0_of_1(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    distributed.start_process_group()
    assert not distributed.is_distributed()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    distributed.barrier()
    distributed.stop_process_group()


def test_collectives_of_one_process_give_back_what_they_got():
    value = torch.tensor([1.0, 2.0])
    reduced = distributed.all_reduce(value, 'mean')
    assert reduced.equal(value) and reduced is not value
    assert distributed.all_reduce_dict({'a': 1, 'b': torch.tensor(2.0)}) == {'a': 1.0, 'b': 2.0}
    assert distributed.all_gather_object('x') == ['x']
    assert distributed.broadcast_object({'x': 1}) == {'x': 1}


def test_an_unknown_reduction_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="op='avg'; accepted: 'sum', 'mean'"):
        distributed.all_reduce(torch.ones(1), 'avg')


def test_the_main_process_runs_what_is_only_for_it(monkeypatch):
    @distributed.main_process_only
    def write():
        return 'written'

    assert write() == 'written'
    monkeypatch.setattr(distributed, 'rank', lambda: 1)
    assert write() is None


def test_a_message_is_logged_once(caplog):
    caplog.set_level(logging.INFO, logger='openlab')
    for _ in range(3):
        distributed.log_once('said once in test_distributed', logger='openlab.test')
    assert caplog.text.count('said once') == 1


def test_a_group_of_one_can_be_started_for_what_needs_a_group(monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    distributed.start_alone()
    try:
        assert distributed.is_distributed() and distributed.world_size() == 1
        assert distributed.all_gather_object(3) == [3]
        with pytest.raises(ValueError, match='accepted'):
            distributed.all_reduce(torch.ones(1), 'product')
    finally:
        distributed.stop_process_group()
    assert not distributed.is_distributed()
