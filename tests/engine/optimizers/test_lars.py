import pytest
import torch
from torch import nn

from openlab.config.build import build
from openlab.engine.optimizers.lars import LARS
from openlab.registry import OPTIMIZERS


def test_a_step_is_a_thousandth_of_the_weight_and_a_bias_takes_plain_steps():
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = LARS([weight, bias], lr=2.0, momentum=0.0)
    weight.grad, bias.grad = torch.tensor([[0.0, 10.0]]), torch.tensor([0.25])
    optimizer.step()
    # norm of the weight 5, of the gradient 10: 0.001 x 5 / 10 x [0, 10] x lr 2
    torch.testing.assert_close(weight.data, torch.tensor([[3.0, 4.0 - 0.01]]))
    assert bias.item() == pytest.approx(0.5)


def test_steps_equal_the_equations_over_several_steps():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    lr, momentum, decay, trust = 0.3, 0.9, 1e-2, 0.02
    optimizer = build({'type': 'LARS', 'lr': lr, 'momentum': momentum, 'weight_decay': decay,
                       'trust': trust}, OPTIMIZERS, params=[weight, bias])
    w, b = weight.data.clone(), bias.data.clone()
    velocity_w, velocity_b = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(4):
        weight.grad, bias.grad = torch.randn(4, 3), torch.randn(4)
        update = weight.grad + decay * w
        local = trust * w.pow(2).sum().sqrt() / update.pow(2).sum().sqrt()
        velocity_w = momentum * velocity_w + local * update
        velocity_b = momentum * velocity_b + bias.grad
        w, b = w - lr * velocity_w, b - lr * velocity_b
        optimizer.step()
        torch.testing.assert_close(weight.data, w)
        torch.testing.assert_close(bias.data, b)


def test_weights_or_gradients_of_zero_take_plain_steps():
    zero, still = nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.ones(1, 2))
    optimizer = LARS([zero, still], lr=0.5)
    zero.grad, still.grad = torch.ones(1, 2), torch.zeros(1, 2)
    optimizer.step()
    assert zero.tolist() == [[-0.5, -0.5]] and still.tolist() == [[1.0, 1.0]]


def test_a_resumed_optimizer_goes_on_to_the_last_bit():
    def run(optimizer, parameter, seeds):
        for seed in seeds:
            parameter.grad = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        return parameter.data.clone()

    whole = nn.Parameter(torch.ones(3, 2))
    expected = run(LARS([whole], lr=1.0), whole, range(4))
    half = nn.Parameter(torch.ones(3, 2))
    first = LARS([half], lr=1.0)
    run(first, half, range(2))
    other = LARS([half], lr=1.0)
    other.load_state_dict(first.state_dict())
    assert run(other, half, range(2, 4)).equal(expected)


@pytest.mark.parametrize('wrong', [{'lr': -1}, {'momentum': 1.0}, {'trust': 0.0}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match='LARS needs'):
        LARS([nn.Parameter(torch.ones(1))], **{'lr': 0.1, **wrong})
