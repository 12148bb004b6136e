"""The logger hook, with a runner that has just the attributes the hook reads."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from openlab.engine.hooks.logger import LoggerHook, mean_of_each, read_scalars
from openlab.engine.hooks.timer import TimerHook


class TinyRunner:
    """Counts iterations as the loop does: after the hooks."""

    def __init__(self, *hooks, max_iters=10, max_epochs=1):
        self.hooks = list(hooks)
        self.iter = self.epoch = self.rank = 0
        self.world_size = 1
        self.max_iters, self.max_epochs = max_iters, max_epochs
        self.train_loop = SimpleNamespace(counts_epochs=True)
        self.rows = []
        self.messages = []
        self.logger = SimpleNamespace(info=self.messages.append, warning=self.messages.append,
                                      handlers=[])
        self.optim_wrapper = SimpleNamespace(param_groups=[{'lr': 0.1}, {'lr': 0.3}])

    def log(self, scalars, step):
        self.rows.append({'iter': step, **scalars})

    def train(self, losses, batch=None, wait=0.0, work=0.0):
        for hook in self.hooks:
            hook.before_train(self)
        for loss in losses:
            time.sleep(wait)
            for hook in self.hooks:
                hook.before_train_iter(self, self.iter, batch)
            time.sleep(work)
            for hook in self.hooks:
                hook.after_train_iter(self, self.iter, batch, {'loss': torch.tensor(loss)})
            self.iter += 1


def hook(**kwargs):
    return LoggerHook(display='plain', **kwargs)


def test_a_row_is_the_mean_of_its_iterations_only():
    runner = TinyRunner(hook(interval=2), max_iters=4)
    runner.train([1.0, 3.0, 5.0, 9.0])
    assert [(r['iter'], r['train/loss']) for r in runner.rows] == [(2, 2.0), (4, 7.0)]
    assert runner.rows[0]['train/lr'] == 0.3
    assert runner.rows[0]['epoch'] == 1


def test_the_last_iteration_gets_a_row_even_between_intervals():
    runner = TinyRunner(hook(interval=4), max_iters=6)
    runner.train([1.0] * 6)
    assert [r['iter'] for r in runner.rows] == [4, 6]


def test_rows_after_a_resume_in_mid_interval_equal_those_of_an_unbroken_run():
    losses = torch.rand(8, generator=torch.Generator().manual_seed(0)).tolist()
    whole = TinyRunner(hook(interval=4), max_iters=8)
    whole.train(losses)
    first = TinyRunner(hook(interval=4), max_iters=8)
    first.train(losses[:6])
    state = json.loads(json.dumps(first.hooks[0].state_dict()))  # plain types only
    second = TinyRunner(hook(interval=4), max_iters=8)
    second.hooks[0].load_state_dict(state)
    second.iter = 6
    second.train(losses[6:])
    assert second.rows[-1]['train/loss'] == whole.rows[-1]['train/loss']


def test_a_short_training_still_gets_twenty_rows():
    runner = TinyRunner(LoggerHook(display='plain'), max_iters=60)
    runner.train([1.0] * 60)
    assert [r['iter'] for r in runner.rows] == list(range(3, 61, 3))
    long = LoggerHook(display='plain')
    long.before_train(TinyRunner(max_iters=10**6))
    assert long.interval == 50


def test_losses_are_read_from_the_device_only_when_a_row_is_due(monkeypatch):
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, 'tolist', lambda self: reads.append(1) or tolist(self))
    monkeypatch.setattr(torch.Tensor, 'item', lambda self: pytest.fail('item() called'))
    runner = TinyRunner(hook(interval=5), max_iters=100)
    runner.train([1.0] * 4)
    assert reads == []
    runner.train([1.0])
    assert len(reads) == 1


def test_pending_losses_stay_bounded():
    logger = hook(interval=10**6)
    runner = TinyRunner(logger, max_iters=10**7)
    runner.train([1.0] * 1200)
    assert len(logger._pending) == 1000


def test_what_is_no_scalar_or_no_loss_is_left_out():
    rows = read_scalars([{'loss': torch.tensor(1.0), 'num_items': 4, 'map': torch.ones(3),
                          'text': 'a', 'acc': 0.5, 'half': torch.tensor(2.0).bfloat16()}])
    assert mean_of_each(rows) == {'loss': 1.0, 'acc': 0.5, 'half': 2.0}


def test_a_loss_that_is_not_finite_stays_visible_in_the_row():
    assert mean_of_each([{'loss': 1.0}, {'loss': float('inf')}]) == {'loss': float('inf')}


def test_metrics_of_a_validation_become_a_row_and_a_line_with_the_best_marked():
    logger = hook()
    runner = TinyRunner(logger, max_epochs=3)
    runner.epoch, runner.iter = 1, 20
    logger.after_val_epoch(runner, {'accuracy/top1': 0.9, 'loss': 0.5})
    runner.epoch, runner.iter = 2, 40
    logger.after_val_epoch(runner, {'accuracy/top1': 0.8, 'loss': 0.4})
    assert runner.rows == [
        {'iter': 20, 'epoch': 1, 'val/accuracy/top1': 0.9, 'val/loss': 0.5},
        {'iter': 40, 'epoch': 2, 'val/accuracy/top1': 0.8, 'val/loss': 0.4}]
    assert '0.8000  ' in runner.messages[-1] and '0.4000*' in runner.messages[-1]
    assert logger.best == {'accuracy/top1': 0.9, 'loss': 0.4}


def test_a_slow_loader_gets_one_hint_that_says_what_to_do():
    runner = TinyRunner(hook(interval=2), TimerHook(), max_iters=100)
    runner.train([1.0] * 8, batch={'samples': [0] * 4}, wait=2e-2)
    hints = [m for m in runner.messages if 'waiting for data' in m]
    assert len(hints) == 1
    assert 'num_workers' in hints[0]
    assert runner.rows[1]['speed/data_share'] > 0.5


def test_a_fast_loader_gets_no_hint():
    runner = TinyRunner(hook(interval=2), TimerHook(), max_iters=100)
    runner.train([1.0] * 8, batch={'samples': [0] * 4}, work=2e-2)
    assert not any('waiting for data' in m for m in runner.messages)
    assert runner.rows[1]['speed/data_share'] < 0.5
    assert runner.rows[1]['speed/items_per_second'] < 4 / 2e-2


def test_iterations_between_rows_cost_under_30_microseconds():
    logger, timer = hook(interval=10**6), TimerHook()
    runner = TinyRunner(logger, timer, max_iters=10**7)
    outputs, batch = {'loss': torch.tensor(1.0)}, {'samples': [0] * 4}
    best = float('inf')
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(500):
            timer.before_train_iter(runner, 0, batch)
            logger.after_train_iter(runner, 0, batch, outputs)
            timer.after_train_iter(runner, 0, batch, outputs)
        best = min(best, (time.perf_counter() - started) / 500)
    assert best < 30e-6


def test_an_interval_of_zero_is_refused():
    with pytest.raises(ValueError, match='interval'):
        LoggerHook(interval=0)
    with pytest.raises(ValueError, match=r"display must be one of .*plain.*, not 'fancy'"):
        LoggerHook(display='fancy')


def test_a_plain_line_reports_everything_asked_for():
    runner = TinyRunner(hook(interval=2), TimerHook(), max_iters=4)
    runner.train([1.0] * 4, batch={'samples': [0] * 4})
    line = next(m for m in runner.messages if m.startswith('epoch 1/1  iter 4/4'))
    for part in ('loss 1', 'lr 0.3', 'img/s', 'data ', 'RAM ', 'ETA 0:00:00'):
        assert part in line


def test_a_validation_alone_gives_the_terminal_back():
    logger = LoggerHook(display='rich')
    runner = TinyRunner(logger)
    runner.train_loop = None
    logger.after_val_epoch(runner, {'accuracy/top1': 0.5})
    live = logger._display._live
    assert live.is_started
    logger.after_run(runner)
    assert not live.is_started
    assert runner.rows == []
