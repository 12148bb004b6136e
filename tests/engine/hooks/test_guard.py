import math

import pytest
import torch
from torch import nn

from openlab.engine.hooks.ema import EMAHook
from openlab.engine.hooks.guard import (
    NonFiniteError,
    NonFiniteGuardHook,
    SpikeError,
    SpikeGuardHook,
)
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


class Root(nn.Module):
    """Not a number for negative inputs."""

    def forward(self, x):
        return torch.sqrt(x)


class BadLoss(SmallModel):
    def forward(self, inputs, samples=None, mode='tensor'):
        losses = super().forward(inputs, samples, mode)
        return losses | {'loss_aux': inputs.sum() * 0 / 0}


class BadGradient(SmallModel):
    """A finite loss whose gradient is not: sqrt at zero."""

    def forward(self, inputs, samples=None, mode='tensor'):
        losses = super().forward(inputs, samples, mode)
        return losses | {'loss_aux': torch.sqrt((self.head.bias * 0).sum())}


def caught_from(model, batches, hook=None, **kwargs):
    runner = SmallRunner(model, [hook or NonFiniteGuardHook()], batches, **kwargs)
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    return str(caught.value), runner


def bad_model():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), Root())
    return SmallModel(backbone=backbone)


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def test_the_first_module_with_a_bad_output_is_named_and_the_weights_are_untouched():
    model = bad_model()
    before = weights_of(model)
    message, _ = caught_from(model, make_batches(1))
    assert 'iteration 1' in message
    assert 'first module with a bad output: backbone.2 (Root)' in message
    assert 'input is bad' not in message
    assert 'parameters with bad gradients: backbone.0.weight' in message
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_a_bad_image_is_named_among_the_images_of_its_batch():
    batches = make_batches(2)
    batches[1]['inputs'][2, 0] = math.inf
    model = SmallModel()
    message, runner = caught_from(model, batches)
    assert runner.iter == 1
    assert 'backbone.0 (Linear)' in message
    assert 'and its input is bad already' in message
    assert 'bad images: b1_i2.png' in message


def test_a_loss_that_is_bad_by_itself_is_named():
    message, _ = caught_from(BadLoss(), make_batches(1))
    assert 'the loss computed from them is not: loss_aux' in message
    assert 'images of the batch: b0_i0.png, b0_i1.png' in message


def test_a_bad_gradient_under_a_finite_loss_is_found_at_the_interval():
    message, runner = caught_from(BadGradient(), make_batches(3), NonFiniteGuardHook(
        grad_interval=2))
    # the first step was not looked at, so the weights are bad when the second begins
    assert runner.iter == 1
    assert 'weights that were bad before this batch: head.bias' in message
    message, runner = caught_from(BadGradient(), make_batches(3), NonFiniteGuardHook(
        grad_interval=1))
    assert runner.iter == 0
    assert 'parameters with bad gradients: head.bias' in message


def test_skipping_leaves_out_the_step_and_puts_the_statistics_back():
    torch.manual_seed(0)
    batches = make_batches(3)
    batches[1]['inputs'][0] = math.nan
    model, twin = SmallModel(), SmallModel()
    twin.load_state_dict(model.state_dict())
    hook = NonFiniteGuardHook(action='skip')
    runner = SmallRunner(model, [hook], batches)
    runner.train()
    SmallRunner(twin, [], [batches[0], batches[2]]).train()
    assert hook.skipped == 1
    assert runner.iter == 3
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_skipping_gives_up_after_too_many_in_a_row():
    batches = make_batches(5)
    for batch in batches:
        batch['inputs'][0] = math.nan
    message, runner = caught_from(SmallModel(), batches, NonFiniteGuardHook('skip', max_skips=2))
    assert runner.iter == 2
    assert '3 bad steps in a row' in message


def test_stopping_ends_training_without_an_error():
    batches = make_batches(4)
    batches[1]['inputs'][0] = math.nan
    model = SmallModel()
    runner = SmallRunner(model, [NonFiniteGuardHook('stop')], batches)
    runner.train()
    assert runner.iter == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_with_accumulation_the_bad_batch_of_the_window_is_found():
    batches = make_batches(4)
    batches[2]['inputs'][3] = math.nan
    message, runner = caught_from(SmallModel(), batches, accumulate=4)
    assert runner.iter == 3
    assert 'b2_i3.png' in message
    assert 'b0_' not in message


def test_a_random_failure_is_found_again_because_the_generators_are_set_back():
    class Sometimes(nn.Module):
        def forward(self, x):
            return x / (torch.rand(()) < 0.3).float().sub(1).abs()

    torch.manual_seed(3)
    model = SmallModel(backbone=nn.Sequential(nn.Linear(4, 3), Sometimes()))
    message, _ = caught_from(model, make_batches(30))
    assert 'backbone.1 (Sometimes)' in message


def test_the_diagnosis_does_not_move_the_random_numbers_of_training():
    batches = make_batches(1)
    batches[0]['inputs'][0] = math.nan
    model = SmallModel(backbone=nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)))
    torch.manual_seed(0)
    SmallRunner(model, [NonFiniteGuardHook('skip')], batches).train()
    after = torch.rand(())
    torch.manual_seed(0)
    model(batches[0]['inputs'])  # draws as often as training should have
    assert torch.rand(()) == after


def test_an_average_next_to_the_guard_stays_finite():
    batches = make_batches(3)
    batches[1]['inputs'][0] = math.nan
    ema = EMAHook()
    SmallRunner(SmallModel(), [NonFiniteGuardHook('skip'), ema], batches).train()
    assert all(t.isfinite().all() for t in ema.average.shadow.values())


class Scale(SmallModel):
    """The loss is the mean of the inputs, whatever the weights."""

    def forward(self, inputs, samples=None, mode='tensor'):
        value = inputs.mean() + 0 * self.head.weight.sum()
        return {'loss_cls': value, 'loss_box': 0 * value}


def losses_as_batches(losses):
    batches = make_batches(len(losses))
    for batch, loss in zip(batches, losses):
        batch['inputs'].fill_(loss)
    return batches


NOISE = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.0, 1.08, 0.92]


def test_a_spike_is_reported_with_losses_norms_and_images(caplog):
    hook = SpikeGuardHook(threshold=6, window=20, warmup=10)
    runner = SmallRunner(Scale(), [hook], losses_as_batches([*NOISE, 30.0, 1.0]))
    with caplog.at_level('WARNING', logger='openlab'):
        runner.train()
    assert hook.spikes == 1
    text = caplog.text
    assert 'loss spike at iteration 11: 30 >' in text
    assert 'loss_cls=30, loss_box=0' in text
    assert 'gradient norms: head=' in text
    assert 'b10_i0.png' in text


def test_noise_is_no_spike():
    hook = SpikeGuardHook(threshold=6, window=20, warmup=10)
    SmallRunner(Scale(), [hook], losses_as_batches([*NOISE, *NOISE, 1.2])).train()
    assert hook.spikes == 0


def test_the_limit_is_the_median_plus_robust_deviations():
    hook = SpikeGuardHook(threshold=2, window=5, warmup=5)
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0):
        hook._take(loss)
    # median 3, median absolute deviation 1
    assert hook.limit_for(100.0) == pytest.approx(3 + 2 * 1.4826)
    assert hook.limit_for(4.0) is None


def test_a_skipped_spike_neither_moves_weights_nor_the_median():
    hook = SpikeGuardHook(window=20, warmup=10, action='skip')
    runner = SmallRunner(Scale(), [hook], losses_as_batches([*NOISE, 30.0]))
    runner.train()
    assert 30.0 not in hook._recent
    assert len(hook._recent) == 10


def test_a_spike_can_be_an_error():
    hook = SpikeGuardHook(window=20, warmup=10, action='raise')
    with pytest.raises(SpikeError, match='iteration 11'):
        SmallRunner(Scale(), [hook], losses_as_batches([*NOISE, 30.0])).train()


def test_the_window_forgets_and_survives_a_resume():
    hook, again = SpikeGuardHook(window=10, warmup=5), SpikeGuardHook(window=10, warmup=5)
    for loss in range(25):
        hook._take(float(loss))
    assert hook._sorted == [float(x) for x in range(15, 25)]
    again.load_state_dict(hook.state_dict())
    assert again.limit_for(99.0) == hook.limit_for(99.0)
