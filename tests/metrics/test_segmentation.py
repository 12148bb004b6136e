import numpy as np
import pytest
import torch
from torch.nn import functional as F

from openlab.metrics.segmentation import SegmentationMetric
from openlab.structures.data_sample import DataSample

NAMES = ('sky', 'road', 'car', 'pole')


def sample(values, **meta):
    return DataSample(meta=meta, semantic_map=torch.as_tensor(values))


def metric_of(pairs, num_classes=4, **kwargs):
    metric = SegmentationMetric(num_classes, **kwargs)
    for guess, truth in pairs:
        metric.update([sample(guess)], [sample(truth)])
    return metric


def random_pairs(count=6, num_classes=4, present=4):
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        shape = tuple(generator.integers(3, 20, 2))
        truth = generator.integers(0, present, shape)
        guess = np.where(generator.random(shape) < 0.6, truth,
                         generator.integers(0, num_classes, shape))
        truth[generator.random(shape) < 0.2] = 255
        pairs.append((guess, truth))
    return pairs


def slow_reference(pairs, num_classes):
    """Sets of pixels, class by class, without any matrix."""
    truth = np.concatenate([t.ravel() for _, t in pairs])
    guess = np.concatenate([g.ravel() for g, _ in pairs])
    guess, truth = guess[truth != 255], truth[truth != 255]
    ious, dices, recalls = {}, [], []
    for k in range(num_classes):
        a, b = set(np.flatnonzero(truth == k)), set(np.flatnonzero(guess == k))
        if a | b:
            ious[k] = len(a & b) / len(a | b)
            dices.append(2 * len(a & b) / (len(a) + len(b)))
        if a:
            recalls.append(len(a & b) / len(a))
    return {'miou': np.mean(list(ious.values())), 'pixel_accuracy': (truth == guess).mean(),
            'mean_accuracy': np.mean(recalls), 'mean_dice': np.mean(dices),
            'num_classes': len(ious), **{f'iou_{k}': v for k, v in ious.items()}}


@pytest.mark.parametrize('present', [4, 2])
def test_results_equal_a_reference_over_sets_of_pixels(present):
    pairs = random_pairs(present=present)
    assert metric_of(pairs).compute() == pytest.approx(slow_reference(pairs, 4), abs=1e-12)


def test_hand_value():
    # class 0: 2 of 3; class 1: 1 of 2; class 2 and 3 occur nowhere
    results = metric_of([([[0, 0, 0, 1]], [[0, 0, 1, 1]])]).compute()
    assert results == pytest.approx({
        'miou': (2 / 3 + 1 / 2) / 2, 'pixel_accuracy': 3 / 4, 'mean_accuracy': (1 + 1 / 2) / 2,
        'mean_dice': (4 / 5 + 2 / 3) / 2, 'num_classes': 2, 'iou_0': 2 / 3, 'iou_1': 1 / 2})


def test_a_class_that_is_only_predicted_counts_as_zero_and_an_absent_one_not_at_all():
    results = metric_of([([[0, 0, 2]], [[0, 0, 0]])]).compute()
    assert results['iou_2'] == 0
    assert 'iou_1' not in results and 'iou_3' not in results
    assert results['miou'] == pytest.approx((2 / 3 + 0) / 2)
    assert results['mean_accuracy'] == pytest.approx(2 / 3)
    assert results['num_classes'] == 2


def test_state_is_bounded_and_merging_equals_one_process():
    pairs = random_pairs()
    whole, first, second, idle = (metric_of(p) for p in (pairs, pairs[:2], pairs[2:], []))
    assert whole.state().shape == (4, 5)
    idle.merge([first.state(), idle.state(), second.state()])
    assert idle.compute() == whole.compute()
    assert torch.equal(idle.state(), whole.state())


def test_the_prediction_is_brought_back_to_the_original_resolution():
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])
    small = torch.tensor([[0, 1]])  # half of the size: each pixel stands for four
    meta = {'ori_shape': (2, 4), 'img_shape': (1, 2), 'matrix': np.diag([0.5, 0.5, 1])}
    prediction, seen = sample(small, **meta), sample(torch.tensor([[2, 3]]), **meta)
    seen.extra['original_map'] = truth
    metric = SegmentationMetric(4)
    metric.update([prediction], [seen])
    assert metric.matrix.sum() == truth.numel()
    assert metric.compute()['pixel_accuracy'] == 0.5

    metric.reset()  # without the untouched truth, what the network saw is brought back
    metric.update([prediction], [sample(torch.tensor([[0, 1]]), **meta)])
    assert metric.compute()['pixel_accuracy'] == 1
    assert metric.matrix.sum() == truth.numel()


def test_a_place_that_was_not_predicted_counts_as_wrong():
    results = metric_of([([[0, 255, 1, 255]], [[0, 0, 1, 255]])]).compute()
    assert results['pixel_accuracy'] == pytest.approx(2 / 3)
    assert results['iou_0'] == pytest.approx(1 / 2)
    assert results['iou_1'] == 1


def test_classes_are_named_by_the_dataset():
    metric = SegmentationMetric()
    metric.dataset_meta = {'classes': NAMES}
    metric.update([sample([[0, 1]])], [sample([[0, 2]])])
    assert [k for k in metric.compute() if k.startswith('iou')] == [
        'iou_sky', 'iou_road', 'iou_car']
    metric.per_class = False
    assert not [k for k in metric.compute() if k.startswith('iou')]


def test_another_index_may_be_ignored_too():
    pairs = [([[0, 1, 1]], [[0, 11, 255]])]
    assert metric_of(pairs, num_classes=2, ignore_index=11).compute()['pixel_accuracy'] == 1


@pytest.mark.parametrize(('guess', 'truth', 'message'), [
    ([[0]], [[4]], 'truth of sample without a name holds class 4'),
    ([[7]], [[0]], 'prediction of sample without a name holds class 7'),
    ([[0, 1]], [[0]], r'is \(1, 1\) but its prediction \(1, 2\)'),
])  # fmt: skip
def test_maps_that_do_not_fit_are_refused(guess, truth, message):
    with pytest.raises(ValueError, match=message):
        metric_of([(guess, truth)])


def test_nothing_to_judge_is_an_error():
    with pytest.raises(ValueError, match='has seen no map'):
        metric_of([]).compute()
    with pytest.raises(ValueError, match='no pixel that is not ignored'):
        metric_of([([[0]], [[255]])]).compute()
    with pytest.raises(ValueError, match='no semantic_map'):
        SegmentationMetric(2).update([DataSample()], [sample([[0]])])
    with pytest.raises(ValueError, match='give num_classes'):
        SegmentationMetric().update([sample([[0]])], [sample([[0]])])


def test_counts_equal_those_of_torch_after_enlarging_by_a_whole_factor():
    truth = torch.arange(4).repeat(8, 2)
    meta = {'ori_shape': (16, 16), 'img_shape': (8, 8), 'matrix': np.diag([0.5, 0.5, 1])}
    metric = SegmentationMetric(4)
    guess = (truth + (torch.arange(8) % 3 == 0)[:, None]) % 4
    metric.update([sample(guess, **meta)], [sample(truth, **meta)])
    big = [F.interpolate(m[None, None].float(), scale_factor=2)[0, 0].long()
           for m in (truth, guess)]
    expected = torch.bincount((big[0] * 5 + big[1]).flatten(), minlength=20).view(4, 5)
    assert torch.equal(metric.matrix, expected)
