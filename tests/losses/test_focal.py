import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from openlab.losses.focal import FocalLoss


def test_focal_loss_matches_the_value_by_hand():
    # p = 0.9, gamma = 2: -(0.1)^2 ln 0.9
    logits, targets = torch.tensor([0.9]).logit(), torch.ones(1)
    assert FocalLoss(alpha=-1)(logits, targets).item() == pytest.approx(1.0536e-3, rel=1e-3)
    assert FocalLoss(alpha=0.25)(logits, targets).item() == pytest.approx(2.634e-4, rel=1e-3)


@pytest.mark.parametrize(('alpha', 'gamma'), [(0.25, 2.0), (-1, 2.0), (0.6, 1.5), (0.25, 0.0)])
def test_loss_and_gradient_equal_torchvision(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 7, generator=generator) * 8).requires_grad_()
    targets = torch.rand(50, 7, generator=generator) < 0.1
    loss = FocalLoss(alpha, gamma)(logits, targets)
    expected = sigmoid_focal_loss(logits, targets.float(), alpha, gamma, reduction='sum')
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(v, logits)[0] for v in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_weights_count_rows():
    logits, targets = torch.randn(3, 4), torch.eye(3, 4)
    loss = FocalLoss()
    weighted = loss(logits, targets, torch.tensor([2.0, 0.0, 0.5]))
    torch.testing.assert_close(
        weighted, 2 * loss(logits[0], targets[0]) + loss(logits[2], targets[2]) / 2)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = FocalLoss(alpha=-1)(logits, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == 400
    assert logits.grad.tolist() == [-1, 1]
