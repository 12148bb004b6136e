from __future__ import annotations

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook as MMEngineHook
from mmengine.runner import Runner as MMEngineRunner

from openlab.engine.hooks.base import Hook

from .helpers import NO_HOOKS, Error, Line, make_runner, points_loader


class Recorder(Hook):
    """Writes down losses and moments."""

    def __init__(self):
        self.losses: list[float] = []
        self.moments: list[str] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())
        self.moments.append('after_train_iter')

    def before_optimizer_step(self, runner):
        self.moments.append('before_optimizer_step')

    def after_optimizer_step(self, runner):
        self.moments.append('after_optimizer_step')

    def before_train_epoch(self, runner):
        self.moments.append('before_train_epoch')

    def on_exception(self, runner, error):
        self.moments.append(type(error).__name__)


def recorded(runner):
    hook = Recorder()
    runner.register_hook(hook, 'VERY_LOW')
    return hook


def test_a_config_dict_trains_validates_and_tests(tmp_path):
    runner = make_runner(
        tmp_path, val_dataloader=points_loader(), val_evaluator={'type': Error},
        test_dataloader=points_loader(8), train_cfg={'max_epochs': 20, 'val_interval': 10})
    losses = recorded(runner)
    runner.train()
    assert isinstance(runner, MMEngineRunner)
    assert (runner.epoch, runner.iter, runner.max_iters) == (20, 60, 60)
    assert losses.losses[-1] < 0.01 * losses.losses[0]
    assert [m['epoch'] for m in runner.metrics_history] == [10, 20]
    assert runner.test() == {'error/mean': pytest.approx(0, abs=0.2), 'error/count': 8.0}


def test_an_unknown_top_level_key_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ValueError, match=r"'optim_wraper' is no top-level key.*optim_wrapper"):
        make_runner(tmp_path, optim_wraper={})


def test_hooks_run_in_order_of_priority_and_only_where_they_override(tmp_path):
    calls = []

    class First(Hook):
        priority = 'HIGH'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            calls.append('first')

    class Common(MMEngineHook):  # mmengine's way to mean train, val and test at once
        def _before_iter(self, runner, batch_idx, data_batch=None, mode='train'):
            calls.append(mode)

    runner = make_runner(tmp_path, default_hooks={**NO_HOOKS, 'param_scheduler': None},
                         custom_hooks=[Common(), First()])
    runner.call_hook('before_train_iter', batch_idx=0)
    runner.call_hook('before_val_iter', batch_idx=0)
    runner.call_hook('after_train_iter', batch_idx=0)
    assert calls == ['first', 'train', 'val']


def test_moments_of_one_iteration_come_in_order(tmp_path):
    runner = make_runner(tmp_path, train_cfg={'max_epochs': 1, 'max_batches': 1})
    hook = recorded(runner)
    runner.train()
    assert hook.moments == ['before_train_epoch', 'before_optimizer_step',
                            'after_optimizer_step', 'after_train_iter']


def test_hooks_hear_of_an_exception_before_it_leaves(tmp_path):
    class Breaks(Line):
        def loss(self, outputs, samples):
            raise RuntimeError('broken')

    runner = make_runner(tmp_path, model={'type': Breaks})
    hook = recorded(runner)
    with pytest.raises(RuntimeError, match='broken'):
        runner.train()
    assert hook.moments[-1] == 'RuntimeError'


def test_a_signal_stops_after_the_running_iteration(tmp_path):
    class Signals(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    runner = make_runner(tmp_path, custom_hooks=[Signals()])
    runner.train()
    assert runner.iter == 2
    assert runner.epoch == 0
    assert runner.stop_request.name == 'SIGTERM'
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize('kind', ['epoch', 'iter'])
@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('stop_at', [1, 2, 3, 4, 5])
def test_resuming_at_any_iteration_continues_digit_for_digit(tmp_path, kind, accumulate, stop_at):
    changes = {
        'model': {'type': Line, 'dropout': 0.5},
        'train_cfg': {'max_epochs': 2} if kind == 'epoch' else {'max_iters': 6},
        'optim_wrapper': {'optimizer': {'type': 'Adam', 'lr': 0.1}, 'accumulate': accumulate},
        'param_scheduler': [{'type': 'LinearWarmup', 'by_epoch': False, 'end': 3},
                            {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 3}],
        'val_dataloader': points_loader(), 'val_evaluator': {'type': Error},
    }
    whole = make_runner(tmp_path, **changes)
    expected = recorded(whole)
    saved = {}

    class Saves(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == stop_at:
                torch.save(runner.state_dict(), tmp_path / 'state.pt')
                saved['model'] = {k: v.clone() for k, v in runner.model.state_dict().items()}

    whole.register_hook(Saves())
    whole.train()

    class Loads(Hook):
        def before_train(self, runner):
            runner.model.load_state_dict(saved['model'])
            runner.load_state_dict(torch.load(tmp_path / 'state.pt', weights_only=True))

    again = make_runner(tmp_path, **changes)
    again.register_hook(Loads())
    losses = recorded(again)
    torch.rand(7)  # another state of the generators than the first run had
    again.train()
    assert losses.losses == expected.losses[stop_at:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_compiling_counts_its_graphs_and_computes_the_same(tmp_path):
    plain, compiled = make_runner(tmp_path), make_runner(
        tmp_path, compile={'target': 'model', 'backend': 'eager'})
    expected, found = recorded(plain), recorded(compiled)
    plain.train()
    compiled.train()
    assert found.losses == pytest.approx(expected.losses)
    [hook] = [h for h in compiled.hooks if type(h).__name__ == 'CompileCountHook']
    assert hook.count > 0


def test_mixed_precision_reaches_training_and_validation(tmp_path):
    seen = []

    class Looks(Line):
        def outputs(self, inputs, samples=None):
            out = super().outputs(inputs, samples)
            seen.append((self.training, out.dtype))
            return out

    make_runner(
        tmp_path, model={'type': Looks}, train_cfg={'max_epochs': 1, 'max_batches': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}, 'precision': 'bf16'},
        val_dataloader=points_loader(4), val_evaluator={'type': Error}).train()
    assert seen == [(True, torch.bfloat16), (False, torch.bfloat16)]


def test_an_optimizer_must_be_configured_to_train(tmp_path):
    with pytest.raises(ValueError, match='training needs optim_wrapper'):
        make_runner(tmp_path, optim_wrapper=None).train()


def test_a_seed_makes_two_runs_equal(tmp_path):
    def weights(seed):
        runner = make_runner(tmp_path, randomness={'seed': seed})
        runner.train()
        return runner.model.head.weight

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))
