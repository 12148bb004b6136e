from __future__ import annotations

import pytest
import torch

from openlab.engine.hooks.base import Hook
from openlab.engine.loops import sum_losses
from openlab.layers.ramp import LinearRamp

from .helpers import Error, Line, make_runner, points_loader


class Seen(Hook):
    """Ids of the items of each training batch, and when validation ran."""

    def __init__(self):
        self.batches: list[list[int]] = []
        self.validations: list[tuple[int, int]] = []
        self.modes: list[bool] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.batches.append([s.meta['img_id'] for s in data_batch['samples']])
        self.modes.append(runner.model.training)

    def before_val(self, runner):
        self.validations.append((runner.epoch, runner.iter))


def trained(tmp_path, **changes):
    hook = Seen()
    runner = make_runner(tmp_path, custom_hooks=[hook], **changes)
    runner.train()
    return runner, hook


VALIDATION = {'val_dataloader': points_loader(), 'val_evaluator': {'type': Error}}


def test_only_entries_named_loss_are_summed():
    total, outputs = sum_losses({
        'loss_a': torch.tensor(1.0), 'loss_b': [torch.tensor(2.0), torch.tensor(3.0)],
        'accuracy': torch.tensor(0.5), 'num_items': 3})
    assert total.item() == 6.0
    assert {k: v.item() for k, v in outputs.items()} == {
        'loss_a': 1.0, 'loss_b': 5.0, 'accuracy': 0.5, 'loss': 6.0}


def test_a_model_without_a_loss_is_refused():
    with pytest.raises(ValueError, match=r"no loss to minimise: no name among \['accuracy'\]"):
        sum_losses({'accuracy': torch.tensor(1.0)})


def test_validation_runs_at_its_interval_and_at_the_end(tmp_path):
    _, hook = trained(tmp_path, train_cfg={'max_epochs': 5, 'val_interval': 2}, **VALIDATION)
    assert hook.validations == [(2, 6), (4, 12), (5, 15)]
    assert all(hook.modes)


def test_validation_may_begin_late(tmp_path):
    _, hook = trained(tmp_path, train_cfg={'max_epochs': 3, 'val_begin': 3}, **VALIDATION)
    assert hook.validations == [(3, 9)]


def test_the_iteration_loop_passes_over_the_data_as_often_as_it_takes(tmp_path):
    runner, hook = trained(tmp_path, train_cfg={'max_iters': 5, 'val_interval': 2}, **VALIDATION)
    assert runner.iter == 5
    assert hook.batches[3] == hook.batches[0] == [0, 1, 2, 3]
    assert [i for _, i in hook.validations] == [2, 4, 5]
    assert all(hook.modes)


def test_max_batches_cuts_every_epoch(tmp_path):
    runner, hook = trained(tmp_path, train_cfg={'max_epochs': 2, 'max_batches': 2})
    assert runner.max_iters == 4
    assert hook.batches == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


@pytest.mark.parametrize('cfg', [{'max_epochs': 2}, {'max_iters': 6}])
def test_overfitting_sees_one_batch_only(tmp_path, cfg):
    _, hook = trained(tmp_path, train_cfg={**cfg, 'overfit_batch': True})
    assert hook.batches == [[0, 1, 2, 3]] * 6


def test_stop_training_leaves_after_the_running_iteration(tmp_path):
    class Stops(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.train_loop.stop_training = runner.iter == 3

    hook = Stops()
    runner = make_runner(tmp_path, custom_hooks=[hook], **VALIDATION)
    runner.train()
    assert (runner.epoch, runner.iter) == (1, 4)
    assert len(runner.metrics_history) == 1


def test_inside_an_epoch_another_number_of_batches_cannot_be_resumed(tmp_path):
    runner, _ = trained(tmp_path)
    state = {**runner.train_loop.state_dict(), 'batches': 2, 'num_batches': 7}
    with pytest.raises(ValueError, match='it had 7 batches when saved and has 3 now'):
        runner.train_loop.load_state_dict(state)


def test_validation_does_not_touch_the_random_numbers_of_training(tmp_path):
    class Draws(Error):
        def update(self, predictions, samples):
            super().update(predictions, samples)
            torch.rand(3)

    def weights(**changes):
        runner = make_runner(tmp_path, model={'type': Line, 'dropout': 0.5}, **changes)
        runner.train()
        return runner.model.head.weight

    drawn = weights(val_dataloader=points_loader(), val_evaluator={'type': Draws})
    assert torch.equal(drawn, weights())


def test_an_empty_dataloader_is_refused(tmp_path):
    loader = torch.utils.data.DataLoader([1, 2], batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match='yields no batch'):
        make_runner(tmp_path, train_dataloader=loader).train()


def test_evaluation_leaves_out_items_that_only_fill_up_a_process(tmp_path):
    from openlab.engine.evaluator import Evaluator
    from openlab.structures.data_sample import DataSample

    evaluator = Evaluator([Error()])
    truth = [DataSample(extra={'target': torch.tensor(0.0)}),
             DataSample(meta={'is_repeat': True}, extra={'target': torch.tensor(0.0)})]
    found = [DataSample(extra={'value': torch.tensor(v)}) for v in (1.0, 9.0)]
    evaluator.update(found, truth)
    assert evaluator.evaluate() == {'error/mean': 1.0, 'error/count': 1.0}


def test_two_metrics_of_one_name_are_refused():
    from openlab.engine.evaluator import Evaluator

    evaluator = Evaluator([Error(), Error()])
    for metric in evaluator.metrics:
        metric.errors = [1.0]
    with pytest.raises(ValueError, match=r"two metrics give 'error/mean'; set name="):
        evaluator.evaluate()


class Followed(Line):
    """A line that scales its loss by a ramp and counts what it is told of steps."""

    def __init__(self):
        super().__init__()
        self.ramp = LinearRamp(0.0, 6.0)
        self.seen = []
        self.steps = []

    def loss(self, outputs, samples):
        self.seen.append(self.ramp.value)
        return super().loss(outputs, samples)

    def after_step(self):
        self.steps.append(self.head.weight.detach().clone())


@pytest.mark.parametrize('loop', [{'max_epochs': 2}, {'max_iters': 6}])
def test_ramps_of_the_model_learn_before_each_iteration_where_training_stands(tmp_path, loop):
    runner = make_runner(tmp_path, model={'type': Followed}, train_cfg=loop)
    model = runner.train()
    assert model.seen == pytest.approx([0, 1, 2, 3, 4, 5])


def test_the_model_hears_of_each_step_of_the_optimizer_after_it(tmp_path):
    optim = {'optimizer': {'type': 'SGD', 'lr': 0.1}, 'accumulate': 2}
    runner = make_runner(tmp_path, model={'type': Followed}, optim_wrapper=optim)
    first = runner.model.head.weight.detach().clone()
    model = runner.train()
    assert len(model.steps) == 4  # three batches an epoch make a window of two and one of one
    assert not model.steps[0].equal(first)
    assert model.steps[-1].equal(model.head.weight)
