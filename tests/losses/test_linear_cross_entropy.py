import pytest
import torch
import torch.nn.functional as F

from openlab.losses import linear_cross_entropy as module
from openlab.losses.linear_cross_entropy import linear_cross_entropy


@pytest.mark.parametrize('block', [2**23, 50, 1])
def test_sum_and_gradients_equal_those_of_all_logits_at_once(block, monkeypatch):
    monkeypatch.setattr(module, 'BLOCK', block)
    monkeypatch.setattr(module, 'CACHED', 30)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(13, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (13,), generator=generator)
    targets[3] = targets[12] = -100
    total = linear_cross_entropy(features, weight, targets)
    expected = F.cross_entropy(features @ weight.T, targets, reduction='sum')
    torch.testing.assert_close(total, expected)
    for mine, other in zip(torch.autograd.grad(total / 7, (features, weight)),
                           torch.autograd.grad(expected / 7, (features, weight)), strict=True):
        torch.testing.assert_close(mine, other)


def test_nothing_to_predict_costs_nothing_and_keeps_the_graph():
    features, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    total = linear_cross_entropy(features, weight, torch.full((4,), -100))
    total.backward()
    assert total == 0
    assert not features.grad.any() and not weight.grad.any()


def test_large_logits_stay_finite():
    weight = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    total = linear_cross_entropy(torch.ones(1, 1), weight, torch.tensor([1]))
    total.backward()
    assert total.item() == 2000
    assert weight.grad.flatten().tolist() == [1, -1]


def test_mixed_precision_gives_gradients_in_the_precision_of_their_tensors():
    features = torch.randn(6, 16, requires_grad=True)
    weight = torch.randn(9, 16, requires_grad=True)
    targets = torch.arange(6)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        total = linear_cross_entropy(features, weight, targets)
        expected = F.cross_entropy(F.linear(features, weight).float(), targets, reduction='sum')
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-3)
    total.backward()
    assert features.grad.dtype == weight.grad.dtype == torch.float32
