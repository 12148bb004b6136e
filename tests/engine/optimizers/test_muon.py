import copy

import pytest
import torch
from torch import nn

from openlab.engine.optim import OptimWrapper
from openlab.engine.optimizers.muon import Muon, orthogonalise


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
                         nn.Linear(96, 12), nn.GELU(), nn.Linear(12, 4))


def gradients(model, step):
    # More images than the smaller side of any matrix: singular values of zero would be noise.
    x = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    (model(x).square().mean() * (20 if step == 3 else 1)).backward()


@pytest.mark.parametrize('shape', [(5, 9), (9, 5), (7, 7), (6, 8)])
def test_singular_values_follow_the_polynomial_and_vectors_stay(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, generator=generator)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonalise(matrix), u * values @ v)
    assert values.min() > 0.6 and values.max() < 1.25


@pytest.mark.parametrize('nesterov', [True, False])
def test_matrices_move_as_with_torch_and_vectors_as_with_adamw(nesterov):
    ours = network()
    theirs = copy.deepcopy(ours)
    kernel = nn.Parameter(theirs[0].weight.detach().flatten(1))  # theirs takes matrices only
    matrices = [kernel, theirs[4].weight, theirs[6].weight]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    settings = {'lr': 0.02, 'weight_decay': 0.05}
    mine = Muon(ours.parameters(), nesterov=nesterov, **settings)
    muon = torch.optim.Muon(matrices, nesterov=nesterov, momentum=0.95,
                            adjust_lr_fn='match_rms_adamw', **settings)
    adamw = torch.optim.AdamW(vectors, betas=(0.9, 0.95), **settings)
    for step in range(8):
        gradients(ours, step)
        for a, b in zip(ours.parameters(), [*theirs.parameters()]):
            b.grad = a.grad.clone()
        kernel.grad = theirs[0].weight.grad.flatten(1)
        before = [p.detach().clone() for p in matrices]
        for optimizer in (mine, muon, adamw):
            for group in optimizer.param_groups:
                group['lr'] = 0.02 * (1 - step / 8)  # schedules write here
            optimizer.step()
        moved = [ours[0].weight.flatten(1), ours[4].weight, ours[6].weight]
        for a, b, start in zip(moved, matrices, before):
            # Theirs is computed in bfloat16; its rounding grows with the small singular values.
            assert (a - b).norm() < 0.05 * (b - start).norm()
        with torch.no_grad():
            for a, b in zip(moved, matrices):
                a.copy_(b)  # so that rounding does not add up over steps
        for a, b in zip([p for p in ours.parameters() if p.ndim == 1], vectors):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_rule_of_the_config_leaves_a_layer_to_adamw():
    ours, theirs = network(), network()
    wrapper = OptimWrapper(
        {'type': Muon, 'lr': 0.01, 'weight_decay': 0.1}, model=ours,
        paramwise={'norm_decay_mult': 0.0, 'custom_keys': {'6.weight': {'orthogonal': False}}})
    adamw = torch.optim.AdamW([theirs[6].weight], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))
    for step in range(3):
        gradients(ours, step)
        theirs[6].weight.grad = ours[6].weight.grad.clone()
        wrapper.optimizer.step()
        adamw.step()
    torch.testing.assert_close(ours[6].weight, theirs[6].weight, rtol=1e-5, atol=1e-7)
    assert (ours[4].weight - theirs[4].weight).abs().max() > 1e-3


def test_a_state_that_was_saved_goes_on_alike():
    straight, resumed = network(), network()
    first, second = (Muon(m.parameters(), lr=0.02) for m in (straight, resumed))
    for step in range(4):
        for model, optimizer in ((straight, first), (resumed, second)):
            gradients(model, step)
            optimizer.step()
        if step == 1:
            saved = copy.deepcopy(second.state_dict())
            second = Muon(resumed.parameters(), lr=0.5)
            second.load_state_dict(saved)
    for a, b in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_a_missing_gradient_and_one_of_zeros_are_no_trouble():
    idle, still = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 2))
    still.grad = torch.zeros(3, 2)
    Muon([idle, still], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(idle, torch.ones(2, 3))
    torch.testing.assert_close(still.detach(), torch.full((3, 2), 0.95))


@pytest.mark.parametrize(('setting', 'message'), [
    ({'lr': -1.0}, 'lr, eps and weight_decay must not be negative, got -1.0'),
    ({'momentum': 1.0}, r'momentum and betas must lie in \[0, 1\), got 1.0'),
    ({'ns_steps': 0}, 'ns_steps must be at least 1, got 0'),
])
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Muon([nn.Parameter(torch.ones(2, 2))], **setting)


def test_an_option_that_the_optimizer_lacks_is_refused():
    with pytest.raises(ValueError, match=r"custom_keys\['6.weight'\] has 'orthogonl'.*"
                                         r'accepted: lr_mult, decay_mult.*orthogonal'):
        OptimWrapper({'type': Muon}, model=network(),
                     paramwise={'custom_keys': {'6.weight': {'orthogonl': False}}})
