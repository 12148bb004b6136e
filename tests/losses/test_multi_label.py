import math

import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torchvision.ops import sigmoid_focal_loss

from openlab.losses.cross_entropy import BinaryCrossEntropyLoss
from openlab.losses.multi_label import AsymmetricLoss, MultiLabelFocalLoss

torch.manual_seed(0)
LOGITS = torch.randn(6, 5) * 3
TARGET = (torch.rand(6, 5) < 0.3).float()
ALL = [AsymmetricLoss(), MultiLabelFocalLoss(), BinaryCrossEntropyLoss(reduction='sum')]


def gradient(function):
    logits = LOGITS.clone().requires_grad_()
    function(logits).backward()
    return logits.grad


@pytest.mark.parametrize('arguments', [
    {'gamma_neg': 4, 'gamma_pos': 1, 'clip': 0.05}, {'gamma_neg': 4, 'gamma_pos': 0, 'clip': 0.2},
    {'gamma_neg': 2, 'gamma_pos': 2, 'clip': 0}])
@pytest.mark.parametrize('with_weight_gradient', [False, True])
def test_asymmetric_loss_and_its_gradient_equal_those_of_timm(arguments, with_weight_gradient):
    ours = AsymmetricLoss(**arguments, with_weight_gradient=with_weight_gradient)
    theirs = AsymmetricLossMultiLabel(
        **arguments, disable_torch_grad_focal_loss=not with_weight_gradient, reduction='sum')
    torch.testing.assert_close(ours(LOGITS, TARGET) * 6, theirs(LOGITS, TARGET))
    torch.testing.assert_close(gradient(lambda x: ours(x, TARGET) * 6),
                               gradient(lambda x: theirs(x, TARGET)))


def test_asymmetric_loss_has_the_values_of_the_paper():
    # p = 0.5 everywhere: present (1 - 0.5)^1 ln 2; absent p_m = 0.45, 0.45^2 * -ln(0.55)
    loss = AsymmetricLoss(gamma_pos=1, gamma_neg=2, clip=0.05)
    value = loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item()
    assert value == pytest.approx(0.5 * math.log(2) - 0.45 ** 2 * math.log(0.55))


def test_an_absent_class_below_the_clip_costs_nothing():
    logits = torch.tensor([[math.log(0.04 / 0.96)]])
    assert AsymmetricLoss(clip=0.05)(logits, torch.zeros(1, 1)).item() == 0
    assert AsymmetricLoss(clip=0.03)(logits, torch.zeros(1, 1)).item() > 0


@pytest.mark.parametrize('alpha', [0.25, None])
def test_focal_loss_and_its_gradient_equal_those_of_torchvision(alpha):
    ours = MultiLabelFocalLoss(alpha, gamma=1.5)

    def theirs(logits):
        return sigmoid_focal_loss(logits, TARGET, -1 if alpha is None else alpha, 1.5,
                                  reduction='sum')

    torch.testing.assert_close(ours(LOGITS, TARGET) * 6, theirs(LOGITS))
    torch.testing.assert_close(gradient(lambda x: ours(x, TARGET) * 6), gradient(theirs))


@pytest.mark.parametrize('loss', ALL, ids=lambda x: type(x).__name__)
def test_entries_that_are_not_known_cost_nothing_and_teach_nothing(loss):
    target = TARGET.clone()
    target[:, 2] = -1
    known = [0, 1, 3, 4]
    torch.testing.assert_close(loss(LOGITS, target), loss(LOGITS[:, known], TARGET[:, known]))
    grad = gradient(lambda x: loss(x, target))
    assert not grad[:, 2].any() and grad[:, known].all(1).any()


@pytest.mark.parametrize('loss', ALL, ids=lambda x: type(x).__name__)
def test_two_parts_weighted_by_their_items_equal_the_whole(loss):
    parts = [(LOGITS[:2], TARGET[:2]), (LOGITS[2:], TARGET[2:])]
    total = sum(loss(*p) * loss.num_items(*p) for p in parts)
    torch.testing.assert_close(total / 6, loss(LOGITS, TARGET))


@pytest.mark.parametrize('kind', [AsymmetricLoss, MultiLabelFocalLoss])
def test_the_mean_is_the_sum_over_the_number_of_classes_and_indices_are_one_hot(kind):
    torch.testing.assert_close(kind(reduction='mean')(LOGITS, TARGET) * 5, kind()(LOGITS, TARGET))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(kind()(LOGITS, labels), kind()(LOGITS, torch.eye(5)[labels]))
    torch.testing.assert_close(kind().probs(LOGITS), LOGITS.sigmoid())


@pytest.mark.parametrize('loss', ALL, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize('scale', [200.0, -200.0])
def test_extreme_logits_give_finite_gradients(loss, scale):
    logits = (torch.ones(2, 5) * scale).requires_grad_()
    value = loss(logits, TARGET[:2])
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_extreme_logits_give_finite_gradients_through_the_discount_too():
    logits = (torch.ones(2, 5) * 200).requires_grad_()
    AsymmetricLoss(gamma_pos=0.5, with_weight_gradient=True)(logits, TARGET[:2]).backward()
    assert logits.grad.isfinite().all()


def test_wrong_arguments_and_shapes_are_refused():
    with pytest.raises(ValueError, match='gamma_neg must not be negative'):
        AsymmetricLoss(gamma_neg=-1)
    with pytest.raises(ValueError, match="'mean' or 'sum', not 'none'"):
        MultiLabelFocalLoss(reduction='none')
    with pytest.raises(ValueError, match='the target must hold'):
        AsymmetricLoss()(LOGITS, TARGET[:, :2])
