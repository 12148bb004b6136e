import math

import pytest
import torch
import torch.nn.functional as F

from openlab.losses.cross_entropy import BinaryCrossEntropyLoss, CrossEntropyLoss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.5, 3.0]])
LABELS = torch.tensor([0, 1, 0])


def test_uniform_logits_cost_the_logarithm_of_the_class_count():
    loss = CrossEntropyLoss()(torch.zeros(4, 10), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(10))


def test_one_hot_probabilities_cost_what_indices_cost():
    soft = F.one_hot(LABELS, 3).float()
    for smoothing in (0.0, 0.1):
        loss = CrossEntropyLoss(label_smoothing=smoothing)
        torch.testing.assert_close(loss(LOGITS, soft), loss(LOGITS, LABELS))


def test_mixed_target_costs_the_mixture_of_both_losses():
    loss = CrossEntropyLoss()
    other = LABELS.roll(1)
    mixed = 0.7 * F.one_hot(LABELS, 3) + 0.3 * F.one_hot(other, 3)
    expected = 0.7 * loss(LOGITS, LABELS) + 0.3 * loss(LOGITS, other)
    torch.testing.assert_close(loss(LOGITS, mixed), expected)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@pytest.mark.parametrize('class_weight', [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_equals_torch_with_smoothing_weights_and_ignored_items(
        smoothing, class_weight):
    labels = torch.tensor([0, -1, 1])
    loss = CrossEntropyLoss(smoothing, class_weight, ignore_index=-1)
    weight = None if class_weight is None else torch.tensor(class_weight)
    expected = F.cross_entropy(
        LOGITS, labels, weight, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, labels), expected)


def test_number_of_items_is_what_the_mean_divides_by():
    labels = torch.tensor([0, 255, 1])
    assert CrossEntropyLoss(ignore_index=255).num_items(LOGITS, labels) == 2
    weighted = CrossEntropyLoss(class_weight=[1.0, 4.0, 9.0], ignore_index=255)
    assert weighted.num_items(LOGITS, labels) == 5
    assert CrossEntropyLoss().num_items(LOGITS, LOGITS.softmax(1)) == 3


def test_two_halves_weighted_by_their_items_equal_the_whole():
    labels = torch.tensor([0, 255, 1])
    loss = CrossEntropyLoss(class_weight=[1.0, 4.0, 9.0], ignore_index=255)
    parts = [(LOGITS[:2], labels[:2]), (LOGITS[2:], labels[2:])]
    total = sum(loss(*p) * loss.num_items(*p) for p in parts)
    items = sum(loss.num_items(*p) for p in parts)
    torch.testing.assert_close(total / items, loss(LOGITS, labels))


def test_loss_of_only_ignored_items_is_zero_and_has_a_gradient_of_zero():
    logits = LOGITS.clone().requires_grad_()
    loss = CrossEntropyLoss(ignore_index=-1)(logits, torch.full((3,), -1))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_pixels_are_items_too():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    labels[0] = 255
    loss = CrossEntropyLoss(ignore_index=255)
    torch.testing.assert_close(
        loss(logits, labels), F.cross_entropy(logits, labels, ignore_index=255))
    assert loss.num_items(logits, labels) == 20


def test_cross_entropy_is_computed_in_full_precision_from_half_logits():
    loss = CrossEntropyLoss()(LOGITS.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CrossEntropyLoss()(LOGITS, LABELS))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'class indices \(3,\) or probabilities \(3, 3\)'):
        CrossEntropyLoss()(LOGITS, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match='2 class weights for 3 classes'):
        CrossEntropyLoss(class_weight=[1.0, 2.0])(LOGITS, LABELS)
    with pytest.raises(ValueError, match='label_smoothing'):
        CrossEntropyLoss(label_smoothing=1.0)


def test_binary_cross_entropy_matches_a_hand_value():
    # -ln sigmoid(0) for each class, so ln 2 as a mean and 3 ln 2 as a sum over classes
    logits, target = torch.zeros(2, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    assert BinaryCrossEntropyLoss()(logits, target).item() == pytest.approx(math.log(2))
    total = BinaryCrossEntropyLoss(reduction='sum')(logits, target)
    assert total.item() == pytest.approx(3 * math.log(2))


def test_binary_cross_entropy_takes_indices_and_smooths_them():
    smooth = BinaryCrossEntropyLoss(label_smoothing=0.2)(LOGITS, LABELS)
    target = F.one_hot(LABELS, 3).float() * 0.8 + 0.1
    torch.testing.assert_close(smooth, F.binary_cross_entropy_with_logits(LOGITS, target))


def test_probabilities_follow_the_kind_of_loss():
    assert CrossEntropyLoss().probs(LOGITS).sum(1).tolist() == pytest.approx([1, 1, 1])
    torch.testing.assert_close(BinaryCrossEntropyLoss().probs(LOGITS), LOGITS.sigmoid())


def test_thresholded_targets_equal_those_of_timm():
    from timm.loss import BinaryCrossEntropy

    soft = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.1, 0.9, 0.0]])
    ours = BinaryCrossEntropyLoss(target_threshold=0.2)
    torch.testing.assert_close(
        ours(LOGITS, soft), BinaryCrossEntropy(smoothing=0, target_threshold=0.2)(LOGITS, soft))
    torch.testing.assert_close(ours(LOGITS, soft), BinaryCrossEntropyLoss()(
        LOGITS, torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 1, 0]])))
    with pytest.raises(ValueError, match=r'target_threshold must lie in \[0, 1\)'):
        BinaryCrossEntropyLoss(target_threshold=1.5)
