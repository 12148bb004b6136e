import pytest
import torch

from openlab.losses.dice import DiceLoss


def logits_of(probs):
    return torch.tensor(probs).log()


def test_dice_loss_matches_hand_value():
    # two pixels of class 0 and 1, foreseen with 0.8 and 0.6; with smooth=1
    logits = logits_of([[[0.8, 0.4], [0.2, 0.6]]])
    first = (2 * 0.8 + 1) / (1 + 1.2 + 1)
    second = (2 * 0.6 + 1) / (1 + 0.8 + 1)
    expected = 1 - (first + second) / 2
    assert DiceLoss()(logits, torch.tensor([[0, 1]])).item() == pytest.approx(expected, rel=1e-6)


def test_dice_loss_equals_a_slow_reference_with_ignored_pixels():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 5, 6), torch.randint(3, (2, 5, 6))  # class 3 is absent
    target[0, :2] = 255
    probs = logits.softmax(1)
    for present_only, classes in ((True, range(3)), (False, range(4))):
        dice = []
        for k in classes:
            valid, truth = (target != 255).float(), (target == k).float()
            overlap = (probs[:, k] * truth).sum()
            dice.append((2 * overlap + 0.5) / ((probs[:, k] * valid).sum() + truth.sum() + 0.5))
        loss = DiceLoss(smooth=0.5, present_only=present_only)
        torch.testing.assert_close(loss(logits, target), 1 - torch.stack(dice).mean())
    assert loss.num_items(logits, target) == 2 * 30 - 12


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_nearly_one():
    target = torch.randint(3, (2, 8, 8))
    perfect = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) * 50.0
    assert DiceLoss()(perfect, target) < 1e-6
    assert DiceLoss()(perfect.roll(1, 1), target) > 0.9


@pytest.mark.parametrize('present_only', [True, False])
def test_where_all_is_ignored_the_loss_is_zero_and_so_is_its_gradient(present_only):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = DiceLoss(present_only=present_only)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='smooth must be positive'):
        DiceLoss(smooth=0)
    with pytest.raises(ValueError, match='class indices'):
        DiceLoss()(torch.randn(1, 3, 4), torch.rand(1, 3, 4))
    with pytest.raises(ValueError, match='logits have shape'):
        DiceLoss()(torch.randn(1, 3, 4), torch.zeros(1, 5, dtype=torch.long))
