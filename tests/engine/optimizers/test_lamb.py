import copy

import pytest
import torch
from timm.optim import Lamb as TimmLamb
from torch import nn

from openlab.engine.optimizers.lamb import Lamb


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))


def groups_of(model, weight_decay):
    plain = [p for p in model.parameters() if p.ndim == 1]
    return [{'params': [p for p in model.parameters() if p.ndim > 1]},
            {'params': plain, 'weight_decay': weight_decay}]


def trained(make, steps=12, clip=None, weight_decay=0.0):
    model = network()
    optimizer = make(groups_of(model, weight_decay))
    generator = torch.Generator().manual_seed(1)
    path = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = 0.02 * (1 - step / steps)  # schedules write here
        x = torch.randn(5, 6, generator=generator)
        optimizer.zero_grad()
        (model(x).square().mean() * (50 if step == 3 else 1)).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        path.append([p.detach().clone() for p in model.parameters()])
    return path


@pytest.mark.parametrize(('ours', 'theirs'), [
    ({}, {}),
    ({'weight_decay': 0.02}, {'weight_decay': 0.02}),
    ({'weight_decay': 0.02, 'always_adapt': True}, {'weight_decay': 0.02, 'always_adapt': True}),
    ({'weight_decay': 0.02, 'max_trust': 1.0}, {'weight_decay': 0.02, 'trust_clip': True}),
    ({'bias_correction': False, 'betas': (0.8, 0.95), 'eps': 1e-4, 'weight_decay': 0.1},
     {'bias_correction': False, 'betas': (0.8, 0.95), 'eps': 1e-4, 'weight_decay': 0.1}),
])
@pytest.mark.parametrize('decay_of_vectors', [0.0, 0.02])
def test_every_step_equals_that_of_timm(ours, theirs, decay_of_vectors):
    theirs = {'weight_decay': 0.0, 'max_grad_norm': None, **theirs}
    for mine, other in zip(trained(lambda g: Lamb(g, **ours), weight_decay=decay_of_vectors),
                           trained(lambda g: TimmLamb(g, **theirs), weight_decay=decay_of_vectors)):
        for a, b in zip(mine, other):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_clipping_by_the_wrapper_is_what_timm_does_inside():
    ours = trained(lambda g: Lamb(g, weight_decay=0.02), clip=1.0)
    theirs = trained(lambda g: TimmLamb(g, weight_decay=0.02, max_grad_norm=1.0))
    for a, b in zip(ours[-1], theirs[-1]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_first_step_has_the_length_worked_out_by_hand():
    # Corrected moments of the first gradient give its sign; scaled to the norm of the weight, 5.
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Lamb([weight], lr=0.1, eps=0.0, always_adapt=True)
    weight.grad = torch.tensor([0.2, -7.0])
    optimizer.step()
    move = 0.1 * 5 / 2**0.5
    torch.testing.assert_close(weight.detach(), torch.tensor([3.0 - move, 4.0 + move]))


def test_a_zero_weight_and_a_missing_gradient_are_no_trouble():
    zero, idle = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    optimizer = Lamb([zero, idle], lr=0.1, weight_decay=0.1)
    zero.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.tensor([-0.1, 0.1]), rtol=1e-4, atol=0)
    assert idle.detach().tolist() == [1, 1]
    idle.grad = torch.ones(2)  # its moments start now, whatever step the others are at
    optimizer.step()
    assert int(optimizer.state[idle]['step']) == 1 and int(optimizer.state[zero]['step']) == 2


def test_a_saved_state_continues_bit_by_bit():
    model = network()
    optimizer = Lamb(model.parameters(), lr=0.02, weight_decay=0.1)

    def step(net, opt):
        opt.zero_grad()
        net(torch.ones(2, 6)).square().mean().backward()
        opt.step()

    step(model, optimizer)
    other = copy.deepcopy(model)
    resumed = Lamb(other.parameters(), lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(other, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_wrong_settings_are_refused_and_the_closure_is_called():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match='must not be negative'):
        Lamb([weight], lr=-1)
    with pytest.raises(ValueError, match='betas'):
        Lamb([weight], betas=(0.9, 1.0))

    def closure():
        weight.grad = torch.ones(1)
        return 42

    assert Lamb([weight]).step(closure) == 42 and weight.item() < 1
