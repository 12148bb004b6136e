import copy

import pytest
import torch
from torch import nn

from openlab.engine.hooks.ema import EMAHook, SWAHook, WeightAverage
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


class OneWeight(nn.Module):
    def __init__(self, value=1.0, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value], dtype=dtype))
        self.register_buffer('seen', torch.tensor(0))
        self.register_buffer('mean', torch.tensor([0.0]))


def step_to(model, value):
    with torch.no_grad():
        model.w.fill_(value)
        model.seen += 1
        model.mean.fill_(value)


def started(hook, model):
    runner = SmallRunner(model, [hook], [])
    hook.before_train(runner)
    return runner


def test_average_matches_the_value_worked_out_by_hand():
    hook, model = EMAHook(momentum=0.25, ramp='none'), OneWeight(1.0)
    runner = started(hook, model)
    for value in (5.0, 3.0):
        step_to(model, value)
        hook.after_optimizer_step(runner)
    # 1 + 0.25 (5 - 1) = 2, then 2 + 0.25 (3 - 2) = 2.25
    assert hook.average.shadow['w'].item() == 2.25


def test_inverse_ramp_gives_early_steps_more_weight():
    hook = EMAHook(momentum=0.01, ramp='inverse', ramp_steps=10)
    assert hook.weight_at(0) == 1
    assert hook.weight_at(10) == 0.5
    assert hook.weight_at(10_000) == 0.01


def test_exponential_ramp_begins_with_the_model_and_ends_at_momentum():
    hook = EMAHook(momentum=0.01, ramp='exponential', ramp_steps=10)
    assert hook.weight_at(0) == 1
    assert hook.weight_at(1000) == pytest.approx(0.01)
    assert hook.weight_at(10) == pytest.approx(1 - 0.99 * (1 - 0.3678794))


def test_only_every_nth_step_is_averaged():
    hook, model = EMAHook(momentum=0.5, ramp='none', interval=2), OneWeight(0.0)
    runner = started(hook, model)
    for value in (1.0, 4.0, 100.0):
        step_to(model, value)
        hook.after_optimizer_step(runner)
    assert hook.average.shadow['w'].item() == 2.0


def test_until_begin_the_average_is_the_model():
    hook, model = EMAHook(momentum=0.5, ramp='none', begin=2), OneWeight(0.0)
    runner = started(hook, model)
    for value in (7.0, 8.0):
        step_to(model, value)
        hook.after_optimizer_step(runner)
        assert hook.average.shadow['w'].item() == value
    step_to(model, 10.0)
    hook.after_optimizer_step(runner)
    assert hook.average.shadow['w'].item() == 9.0


@pytest.mark.parametrize(('buffers', 'mean'), [('copy', 8.0), ('average', 4.0)])
def test_buffers_are_copied_or_averaged_by_choice(buffers, mean):
    hook, model = EMAHook(momentum=0.5, ramp='none', buffers=buffers), OneWeight(0.0)
    runner = started(hook, model)
    step_to(model, 8.0)
    hook.after_optimizer_step(runner)
    assert hook.average.shadow['mean'].item() == mean
    assert hook.average.shadow['seen'].item() == 1  # a count is never averaged


def test_validation_sees_the_average_and_training_its_own_weights_again():
    hook, model = EMAHook(momentum=0.5, ramp='none'), SmallModel()
    seen = {}
    runner = SmallRunner(model, [hook], make_batches(3))

    def validate(runner):
        seen['val'] = model.head.weight.detach().clone()
        return {}

    runner.validate = validate
    before = {}
    hook.after_train_epoch = lambda runner: before.update(copy.deepcopy(model.state_dict()))
    runner.train()
    assert torch.equal(seen['val'], hook.average.shadow['head.weight'])
    assert not torch.equal(seen['val'], before['head.weight'])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision_weights_are_averaged_in_float32_and_given_back_exactly():
    model = OneWeight(1.0, torch.bfloat16)
    average = WeightAverage(model)
    step_to(model, 2.0)
    average.update(0.0002)
    assert average.shadow['w'].item() == pytest.approx(1.0002, abs=1e-6)
    own = model.w.detach().clone()
    average.swap_in()
    average.swap_out()
    assert torch.equal(model.w, own)
    assert average.shadow['w'].item() == pytest.approx(1.0002, abs=1e-6)


def test_an_error_in_validation_gives_the_weights_back():
    hook, model = EMAHook(momentum=0.5, ramp='none'), OneWeight(0.0)
    runner = started(hook, model)
    step_to(model, 1.0)
    hook.after_optimizer_step(runner)
    hook.before_val_epoch(runner)
    assert model.w.item() == 0.5
    hook.on_exception(runner, RuntimeError('in validation'))
    assert model.w.item() == 1.0


def test_with_accumulation_the_average_moves_once_a_step():
    hook = EMAHook(momentum=0.5)
    SmallRunner(SmallModel(), [hook], make_batches(6), accumulate=3).train()
    assert hook.average.steps == 2


def test_a_resumed_average_continues_bit_by_bit():
    def run(batches, hook, model):
        SmallRunner(model, [hook], batches, lr=0.05).train()
        return hook.average.shadow

    torch.manual_seed(0)
    model = SmallModel()
    batches = make_batches(7)
    whole = run(batches, EMAHook(momentum=0.1, ramp_steps=5), copy.deepcopy(model))
    first = EMAHook(momentum=0.1, ramp_steps=5)
    run(batches[:3], first, model)
    second = EMAHook(momentum=0.1, ramp_steps=5)
    second.load_state_dict(first.state_dict())
    parts = run(batches[3:], second, model)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_state_loads_with_weights_only(tmp_path):
    hook, model = EMAHook(), OneWeight()
    started(hook, model)
    torch.save(hook.state_dict(), tmp_path / 'hook.pt')
    state = torch.load(tmp_path / 'hook.pt', weights_only=True)
    assert torch.equal(state['weights']['w'], model.w)


def test_state_of_another_model_is_refused_by_name():
    hook = EMAHook()
    started(hook, OneWeight())
    with pytest.raises(ValueError, match=r'head\.weight'):
        hook.load_state_dict({'steps': 1, 'updates': 1,
                              'weights': {'head.weight': torch.zeros(1)}})


def test_state_dict_for_saving_has_all_names_of_the_model_also_shared_ones():
    model = SmallModel()
    model.tied = nn.Linear(3, 2)
    model.tied.weight = model.head.weight
    hook = EMAHook(momentum=0.5, ramp='none')
    runner = started(hook, model)
    with torch.no_grad():
        model.head.weight += 2
    hook.after_optimizer_step(runner)
    state = hook.averaged_state_dict(runner)
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(state['tied.weight'], model.head.weight - 1)
    model.load_state_dict(state)


def test_momentum_in_the_sense_of_decay_is_refused_with_the_value_meant():
    with pytest.raises(ValueError, match=r'did you mean 0\.0001\?'):
        EMAHook(momentum=0.9999)


def test_swa_is_the_mean_of_the_weights_from_begin_on():
    hook, model = SWAHook(begin=1), OneWeight(50.0)
    runner = started(hook, model)
    for value in (99.0, 1.0, 2.0, 6.0):
        step_to(model, value)
        hook.after_optimizer_step(runner)
    assert hook.average.shadow['w'].item() == pytest.approx(3.0)
