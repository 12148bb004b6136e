from __future__ import annotations

import copy
import math

import pytest
import torch

from openlab.engine.finders import (
    BatchTrial,
    _expected_memory,
    _search,
    find_batch_size,
    find_lr,
)
from openlab.engine.hooks.guard import NonFiniteGuardHook

from .helpers import Line, make_runner, points_loader


def snapshot(runner):
    return (
        copy.deepcopy(runner.unwrapped_model.state_dict()),
        copy.deepcopy(runner.optim_wrapper.state_dict()),
        torch.get_rng_state(),
    )


def assert_equal(before, after):
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
    assert str(before[1]) == str(after[1])
    assert torch.equal(before[2], after[2])


def test_the_lr_sweep_finds_a_rate_below_the_unstable_ones(tmp_path):
    # inputs of variance 1: the loss of one layer has curvature about 2, unstable from lr = 1 on
    result = find_lr(make_runner(tmp_path), min_lr=1e-4, max_lr=100, num_steps=60)
    assert result.stopped_early
    assert 1e-3 < result.suggestion < 1
    assert result.suggestion <= result.lowest / 3
    assert result.smoothed[-1] < 4 * min(result.smoothed) * 1.0001
    assert f'{result.suggestion:.2e}' in str(result)


def test_the_lr_sweep_leaves_no_trace(tmp_path):
    runner = make_runner(
        tmp_path, model={'type': Line, 'dropout': 0.5},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}, 'accumulate': 2},
        custom_hooks=[NonFiniteGuardHook()])
    runner.prepare_training()
    before = snapshot(runner)
    find_lr(runner, num_steps=30, max_lr=1e6)
    assert_equal(before, snapshot(runner))
    assert all(p.grad is None for p in runner.model.parameters())
    assert runner.iter == 0


def test_training_after_a_sweep_is_that_without_one(tmp_path):
    plain, swept = make_runner(tmp_path / 'a'), make_runner(tmp_path / 'b')
    find_lr(swept, num_steps=10, plot=None)
    plain.train()
    swept.train()
    assert torch.equal(plain.model.head.weight, swept.model.head.weight)


def test_the_sweep_is_drawn(tmp_path):
    result = find_lr(make_runner(tmp_path), num_steps=10)
    assert result.plot == tmp_path / 'lr_finder.png'
    assert result.plot.read_bytes().startswith(b'\x89PNG')


def test_rates_of_single_parameters_keep_their_ratio(tmp_path):
    runner = make_runner(tmp_path)
    runner.prepare_training()
    groups = runner.optim_wrapper.optimizer.param_groups
    head = runner.model.head
    groups[0]['params'] = [head.weight]
    groups.append({**groups[0], 'params': [head.bias], 'lr': 0.01})
    seen = []
    step = runner.optim_wrapper.optimizer.step
    runner.optim_wrapper.optimizer.step = lambda: (seen.append([g['lr'] for g in groups]), step())
    find_lr(runner, min_lr=1e-6, max_lr=1e-4, num_steps=5, plot=None)
    assert all(small == pytest.approx(large / 10) for large, small in seen)
    assert seen[0][0] == pytest.approx(1e-6)
    assert seen[-1][0] == pytest.approx(1e-4)


def test_a_sweep_that_cannot_begin_says_so(tmp_path):
    loader = points_loader()
    loader.dataset.inputs[:] = math.nan
    with pytest.raises(ValueError, match=r'nan already at lr=1\.0e-07'):
        find_lr(make_runner(tmp_path, train_dataloader=loader))


def test_arguments_that_make_no_sweep_are_refused(tmp_path):
    with pytest.raises(ValueError, match='min_lr < max_lr'):
        find_lr(make_runner(tmp_path), min_lr=1.0, max_lr=0.1)


def search(seconds_of, memory_of=lambda size: size, limit=10**9, most=10**6, start=1):
    tried = []

    def try_size(size):
        tried.append(size)
        fits = memory_of(size) <= limit
        return BatchTrial(size, seconds_of(size) if fits else math.nan, memory_of(size), fits)

    best, reason = _search(try_size, {}, start, most, 0.05)
    return best, reason, tried


def test_doubling_then_halving_finds_the_largest_size_that_fits():
    best, reason, tried = search(lambda size: 1 / size, limit=100)
    assert tried[:8] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert 88 <= best <= 100
    assert 'fits into memory' in reason


def test_growth_stops_when_samples_get_no_faster():
    best, reason, tried = search(lambda size: max(1 / size, 1 / 16))
    assert best == 16
    assert tried[-1] == 64
    assert 'no faster' in reason


def test_one_slow_size_does_not_end_the_search():
    best, _, _ = search(lambda size: 0.3 if size == 8 else 1 / size, most=64)
    assert best == 64


def test_a_start_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match='a batch of 4 does not fit'):
        search(lambda size: 1.0, limit=3, start=4)


def test_memory_is_foreseen_by_a_straight_line():
    trials = {1: BatchTrial(1, 1, 150, True), 2: BatchTrial(2, 1, 200, True)}
    assert _expected_memory(trials, 4) == 300


def test_the_batch_size_finder_leaves_no_trace_and_stays_within_the_dataset(tmp_path):
    runner = make_runner(tmp_path, optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}})
    runner.prepare_training()
    before = snapshot(runner)
    result = find_batch_size(runner, num_steps=1)
    assert_equal(before, snapshot(runner))
    assert 1 <= result.batch_size <= 12
    assert all(trial.size <= 12 for trial in result.trials)
    assert f'batch size {result.batch_size}' in str(result)


def test_a_memory_limit_ends_the_search_on_the_cpu(tmp_path):
    class Hungry(Line):
        def outputs(self, inputs, samples=None):
            wide = self.head.weight.new_ones(len(inputs), 4 * 2**20) * self.head.weight.sum()
            return super().outputs(inputs, samples) + 0 * wide.square().mean()

    runner = make_runner(tmp_path, model=Hungry())
    result = find_batch_size(runner, num_steps=1, min_gain=0.0, memory_limit=200 * 2**20)
    assert not all(trial.fits for trial in result.trials)
    assert result.batch_size < 12
