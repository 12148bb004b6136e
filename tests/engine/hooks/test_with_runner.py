"""The hooks in the real engine: order of moments, stopping, saving and resuming."""

import json

import pytest
import torch

from openlab.engine.checkpoint_files import read_weights
from openlab.engine.hooks.base import Hook
from openlab.engine.hooks.guard import NonFiniteError, NonFiniteGuardHook
from tests.engine.helpers import NO_HOOKS, Error, Line, make_runner, points_loader

SAVING = {**NO_HOOKS, 'checkpoint': {'type': 'CheckpointHook', 'interval': 1}}


class Losses(Hook):
    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss'].item())


def run(folder, *hooks, epochs=2, **changes):
    runner = make_runner(
        folder, train_cfg={'max_epochs': epochs}, custom_hooks=list(hooks),
        val_dataloader=points_loader(), val_evaluator={'type': Error}, **changes)
    runner.train()
    return runner


def hook_of(runner, name):
    return next(h for h in runner.hooks if type(h).__name__ == name)


def test_validation_measures_the_average(tmp_path):
    ema = {'type': 'EMAHook', 'momentum': 1e-6, 'ramp': 'none'}
    start = make_runner(tmp_path / 'start', val_dataloader=points_loader(),
                        val_evaluator={'type': Error}).val()
    plain = run(tmp_path / 'plain').metrics_history[-1]['error/mean']
    averaged = run(tmp_path / 'ema', ema).metrics_history[-1]['error/mean']
    # so slow an average is still where training began
    assert averaged == pytest.approx(start['error/mean'], rel=1e-4)
    assert plain < 0.8 * averaged


def test_a_resumed_run_has_the_average_of_the_whole_one(tmp_path):
    ema = {'type': 'EMAHook', 'momentum': 0.1, 'ramp_steps': 4}
    changes = {'default_hooks': SAVING,
               'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 0.1}, 'accumulate': 2}}
    whole = run(tmp_path / 'whole', ema, epochs=4, **changes)
    run(tmp_path / 'parts', ema, epochs=2, **changes)
    resumed = run(tmp_path / 'parts', ema, epochs=4, resume=True, **changes)
    assert resumed.iter == whole.iter == 12
    a, b = (hook_of(r, 'EMAHook').average.shadow for r in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(whole.model.head.weight, resumed.model.head.weight)


def test_a_checkpoint_holds_the_average_beside_the_weights(tmp_path):
    runner = run(tmp_path, {'type': 'EMAHook'}, default_hooks=SAVING)
    folder = tmp_path / 'checkpoints' / json.loads(
        (tmp_path / 'checkpoints' / 'last.json').read_text())['checkpoint']
    saved = read_weights(folder / 'ema.safetensors')
    shadow = hook_of(runner, 'EMAHook').average.shadow
    assert torch.equal(saved['head.weight'], shadow['head.weight'])
    own = read_weights(folder / 'model.safetensors')
    assert torch.equal(own['head.weight'], runner.model.head.weight)
    assert not torch.equal(own['head.weight'], saved['head.weight'])


def test_early_stop_ends_the_run_after_its_validation(tmp_path):
    # nothing is better than the first by 100
    stop = {'type': 'EarlyStopHook', 'metric': 'error/mean', 'patience': 2, 'min_delta': 100.0,
            'mode': 'min'}
    assert run(tmp_path, stop, epochs=9).epoch == 3


def test_the_time_limit_leaves_a_checkpoint_to_resume_from(tmp_path):
    limit = {'type': 'TimeLimitHook', 'max_time': '1s', 'margin': '0.99999s', 'interval': 1}
    first = run(tmp_path, limit, epochs=2, default_hooks=SAVING)
    assert 1 <= first.iter < 6
    resumed = run(tmp_path, epochs=2, default_hooks=SAVING, resume=True)
    whole = run(tmp_path / 'whole', epochs=2)
    assert torch.equal(resumed.model.head.weight, whole.model.head.weight)


def test_frozen_parameters_stay_through_weight_decay_and_momentum(tmp_path):
    optim = {'optimizer': {'type': 'AdamW', 'lr': 0.1, 'weight_decay': 0.5}}
    freeze = {'type': 'FreezeHook', 'patterns': ['head.bias']}
    start = make_runner(tmp_path / 'start').model.state_dict()
    after = run(tmp_path, freeze, optim_wrapper=optim).model.state_dict()
    assert torch.equal(start['head.bias'], after['head.bias'])
    assert not torch.equal(start['head.weight'], after['head.weight'])


def test_unfreezing_trains_from_that_epoch_on(tmp_path):
    freeze = {'type': 'FreezeHook', 'patterns': ['head.bias'], 'unfreeze_epoch': 1}
    start = make_runner(tmp_path / 'start').model.state_dict()
    after = run(tmp_path, freeze).model.state_dict()
    assert not torch.equal(start['head.bias'], after['head.bias'])


def spoilt_loader(batch):
    loader = points_loader()
    loader.dataset.inputs[4 * batch + 1] = float('nan')
    return loader


def test_the_guard_raises_before_the_step_and_names_module_and_sample(tmp_path):
    guard = NonFiniteGuardHook()
    with pytest.raises(NonFiniteError, match=r'dropout \(Dropout\)') as caught:
        run(tmp_path, guard, train_dataloader=spoilt_loader(1),
            optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}, 'clip_grad': {'max_norm': 1}})
    assert 'iteration 2' in str(caught.value)
    assert 'bad images: 5' in str(caught.value)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_the_guard_can_skip_the_step(tmp_path, accumulate):
    guard = {'type': 'NonFiniteGuardHook', 'action': 'skip'}
    optim = {'optimizer': {'type': 'AdamW', 'lr': 0.1}, 'accumulate': accumulate}
    runner = run(tmp_path, guard, train_dataloader=spoilt_loader(1), optim_wrapper=optim)
    assert hook_of(runner, 'NonFiniteGuardHook').skipped == 2
    assert runner.model.head.weight.isfinite().all()


def test_a_compiled_model_is_diagnosed_as_well(tmp_path):
    with pytest.raises(NonFiniteError, match=r'dropout \(Dropout\)'):
        run(tmp_path, NonFiniteGuardHook(), train_dataloader=spoilt_loader(0),
            compile={'backend': 'eager'})


def test_hooks_that_only_watch_do_not_change_the_losses(tmp_path):
    plain, watched = Losses(), Losses()
    run(tmp_path / 'a', plain, model={'type': Line, 'dropout': 0.5})
    run(tmp_path / 'b', watched, {'type': 'EMAHook'}, {'type': 'NonFiniteGuardHook'},
        {'type': 'SpikeGuardHook'}, {'type': 'ParamStatsHook', 'interval': 2},
        {'type': 'SyncBuffersHook'}, {'type': 'EmptyCacheHook', 'every_n_iters': 1},
        model={'type': Line, 'dropout': 0.5})
    assert plain.values == watched.values
    assert len(plain.values) == 6
