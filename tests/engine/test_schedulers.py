from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from openlab.engine.schedulers import build_schedules


def optimizer(lr=0.1, momentum=0.9):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)


def lrs(cfgs, steps, by_epoch=False, key='lr', max_iters=None, iters_per_epoch=4):
    """Values at each iteration (or epoch)."""
    opt = optimizer()
    schedules = build_schedules(cfgs, opt, max_epochs=max_iters or steps,
                                max_iters=max_iters or steps, iters_per_epoch=iters_per_epoch)
    values = [opt.param_groups[0][key]]
    for _ in range(steps):
        for schedule in schedules:
            if schedule.by_epoch is by_epoch:
                schedule.step()
        values.append(opt.param_groups[0][key])
    return values


CASES = {
    'StepLR': {'step_size': 3}, 'MultiStepLR': {'milestones': [2, 5]}, 'ConstantLR': {},
    'LinearLR': {}, 'ExponentialLR': {'gamma': 0.9}, 'CosineAnnealingLR': {'T_max': 10},
    'PolynomialLR': {'total_iters': 10, 'power': 2.0}, 'CosineAnnealingWarmRestarts': {'T_0': 4},
    'OneCycleLR': {'max_lr': 0.5, 'total_steps': 11},
    'CyclicLR': {'base_lr': 0.01, 'max_lr': 0.1, 'step_size_up': 3},
}


@pytest.mark.parametrize('name', CASES)
def test_schedulers_of_torch_give_the_values_of_torch(name):
    ours = lrs({'type': name, 'by_epoch': False, **CASES[name]}, 10)
    opt = optimizer()
    theirs = getattr(lr_scheduler, name)(opt, **CASES[name])
    expected = [opt.param_groups[0]['lr']]
    for _ in range(10):
        opt.step()
        theirs.step()
        expected.append(opt.param_groups[0]['lr'])
    assert ours == expected


def test_warm_up_then_cosine_have_their_windows():
    values = lrs([{'type': 'LinearWarmup', 'start_factor': 0.1, 'by_epoch': False, 'end': 4},
                  {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 4}], 12)
    assert values[:5] == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1])
    # half of the cosine, four of eight steps after its beginning
    assert values[8] == pytest.approx(0.05)
    assert values[12] == pytest.approx(0.0, abs=1e-12)


def test_what_a_window_left_stays():
    values = lrs({'type': 'ExponentialLR', 'gamma': 0.5, 'by_epoch': False, 'begin': 2, 'end': 4},
                 8)
    assert values == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.025, 0.025, 0.025, 0.025, 0.025])


def test_a_warm_up_in_epochs_rises_after_every_iteration():
    values = lrs({'type': 'LinearWarmup', 'start_factor': 0.5, 'by_epoch': True, 'end': 1}, 6,
                 iters_per_epoch=4)
    assert values == pytest.approx([0.05, 0.0625, 0.075, 0.0875, 0.1, 0.1, 0.1])


def test_epoch_schedules_can_be_spread_over_iterations():
    values = lrs({'type': 'CosineAnnealingLR', 'by_epoch': True, 'T_max': 2,
                  'convert_to_iter_based': True}, 8, iters_per_epoch=4)
    assert values[4] == pytest.approx(0.05)
    assert values[8] == pytest.approx(0.0, abs=1e-12)


def test_momentum_is_scheduled_like_lr():
    values = lrs({'type': 'ExponentialLR', 'gamma': 0.5, 'by_epoch': False, 'param': 'momentum'},
                 2, key='momentum')
    assert values == pytest.approx([0.9, 0.45, 0.225])


def test_momentum_of_adam_is_its_first_beta():
    opt = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.8, 0.99))
    [schedule] = build_schedules({'type': 'ExponentialLR', 'gamma': 0.5, 'param': 'momentum'},
                                 opt, 3, 3, 1)
    schedule.step()
    assert opt.param_groups[0]['betas'] == (pytest.approx(0.4), 0.99)


def test_a_plateau_lowers_the_lr_by_the_metric_it_watches():
    opt = optimizer()
    [schedule] = build_schedules(
        {'type': 'ReduceLROnPlateau', 'mode': 'max', 'patience': 0, 'monitor': 'accuracy/top1'},
        opt, 5, 5, 1)
    assert schedule.need_val_args
    for value in (0.5, 0.4):
        schedule.step({'accuracy/top1': value})
    assert opt.param_groups[0]['lr'] == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"monitor='accuracy/top1'.*there are loss"):
        schedule.step({'loss': 1.0})


def test_every_state_is_plain_and_continues_exactly(tmp_path):
    cfgs = [{'type': n, 'by_epoch': False, **kw} for n, kw in CASES.items()
            if n not in ('OneCycleLR', 'CyclicLR')]
    cfgs.append({'type': 'ExponentialLR', 'gamma': 0.9, 'by_epoch': False, 'param': 'momentum',
                 'begin': 3})

    def build():
        opt = optimizer()
        return opt, build_schedules(cfgs, opt, 20, 20, 1)

    def advance(opt, schedules, steps):
        seen = []
        for _ in range(steps):
            for schedule in schedules:
                schedule.step()
            group = opt.param_groups[0]
            seen.append((group['lr'], group['momentum']))
        return seen

    opt, schedules = build()
    advance(opt, schedules, 5)
    file = tmp_path / 'state.pt'
    torch.save({'s': [s.state_dict() for s in schedules], 'o': opt.state_dict()}, file)
    expected = advance(opt, schedules, 6)
    state = torch.load(file, weights_only=True)
    opt, schedules = build()
    for schedule, saved in zip(schedules, state['s']):
        schedule.load_state_dict(saved)
    opt.load_state_dict(state['o'])
    assert advance(opt, schedules, 6) == expected


def test_epochs_are_refused_where_a_loop_counts_iterations():
    with pytest.raises(ValueError, match='by_epoch=True, but an IterTrainLoop'):
        build_schedules({'type': 'StepLR', 'step_size': 1, 'by_epoch': True}, optimizer(), 1, 9, 9,
                        counts_epochs=False)


def test_a_window_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match=r'param_scheduler\[0\]: the window'):
        lrs({'type': 'ConstantLR', 'by_epoch': False, 'begin': 5, 'end': 2}, 1)


def test_an_empty_window_does_nothing():
    assert lrs({'type': 'ExponentialLR', 'gamma': 0.5, 'by_epoch': False, 'begin': 1, 'end': 1},
               2) == [0.1, 0.1, 0.1]


def decayed_and_not(weight_decay=0.04):
    groups = [{'params': [nn.Parameter(torch.zeros(1))]},
              {'params': [nn.Parameter(torch.zeros(1))], 'weight_decay': 0.0},
              {'params': [nn.Parameter(torch.zeros(1))], 'weight_decay': 2 * weight_decay}]
    return torch.optim.AdamW(groups, lr=0.1, weight_decay=weight_decay)


RISING = {'type': 'CosineAnnealingLR', 'param': 'weight_decay', 'eta_min': 0.4, 'by_epoch': False}


def test_weight_decay_rises_along_a_cosine_and_what_has_none_keeps_none():
    opt = decayed_and_not()
    schedule, = build_schedules(RISING, opt, 1, 10, 10)
    found = []
    for step in range(11):
        found.append([g['weight_decay'] for g in opt.param_groups])
        expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / 10))
        assert found[-1] == pytest.approx([expected, 0.0, 2 * expected])
        schedule.step()
    assert [g['lr'] for g in opt.param_groups] == [0.1] * 3
    assert found[0][0] == pytest.approx(0.04) and found[10][0] == pytest.approx(0.4)


def test_a_resumed_weight_decay_goes_on_to_the_last_bit():
    def run(steps, schedule, opt):
        values = []
        for _ in range(steps):
            schedule.step()
            values.append([g['weight_decay'] for g in opt.param_groups])
        return values

    opt = decayed_and_not()
    schedule, = build_schedules(RISING, opt, 1, 10, 10)
    whole = run(10, schedule, opt)
    opt = decayed_and_not()
    schedule, = build_schedules(RISING, opt, 1, 10, 10)
    first = run(4, schedule, opt)
    saved = schedule.state_dict(), opt.state_dict()
    opt = decayed_and_not()
    schedule, = build_schedules(RISING, opt, 1, 10, 10)
    schedule.load_state_dict(saved[0]), opt.load_state_dict(saved[1])
    assert first + run(6, schedule, opt) == whole


def test_weight_decay_that_begins_at_nothing_is_refused():
    with pytest.raises(ValueError, match='must be positive, not 0'):
        build_schedules({**RISING, 'T_max': 3}, optimizer(), 1, 3, 3)
