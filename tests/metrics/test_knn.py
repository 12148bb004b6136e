import pytest
import torch

from openlab.metrics.knn import KNNAccuracy
from openlab.structures.data_sample import DataSample


def seen(metric, feats, labels, split=None):
    for rows in torch.arange(len(labels)).split(split or len(labels)):
        metric.update([DataSample(extra={'feats': feats[i]}) for i in rows],
                      [DataSample(label=torch.tensor(labels[i])) for i in rows])
    return metric


# Directions on a circle, in degrees, and classes: the nearest other item decides.
ANGLES = [0, 5, 50, 55, 170, 58]
LABELS = [0, 0, 1, 1, 2, 0]


def circle():
    angles = torch.tensor(ANGLES) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_the_nearest_other_item_decides():
    # 0 and 5 find each other; 50 finds 55; 55 finds 58 (wrong); 170 and 58 find another class
    result = seen(KNNAccuracy(k=1), circle(), LABELS).compute()
    assert result == {'top1_k1': pytest.approx(3 / 6)}


def test_more_neighbours_vote_with_their_similarity():
    # Each item has one of its own class nearby and both of the other class further away.
    angles = torch.tensor([0.0, 8, 20, 22]) * torch.pi / 180
    feats = torch.stack([angles.cos(), angles.sin()], dim=1)
    sharp = seen(KNNAccuracy(k=3, temperature=0.001), feats, [0, 0, 1, 1]).compute()
    flat = seen(KNNAccuracy(k=3, temperature=100.0), feats, [0, 0, 1, 1]).compute()
    assert (sharp, flat) == ({'top1_k3': 1.0}, {'top1_k3': 0.0})


def test_the_length_of_features_does_not_count():
    scaled = circle() * torch.tensor([1.0, 9, 3, 0.1, 5, 2])[:, None]
    assert seen(KNNAccuracy(k=1), scaled, LABELS).compute() == seen(
        KNNAccuracy(k=1), circle(), LABELS).compute()


def test_equal_to_a_slow_reference_in_batches_and_over_processes():
    torch.manual_seed(0)
    feats, labels = torch.randn(60, 5), torch.randint(4, (60,)).tolist()
    unit = torch.nn.functional.normalize(feats, dim=1).half().float()
    right = 0
    for i in range(60):
        others = sorted((j for j in range(60) if j != i), key=lambda j: -(unit[i] @ unit[j]))[:7]
        votes = [0.0] * 4
        for j in others:
            votes[labels[j]] += float((unit[i] @ unit[j] / 0.07).exp())
        right += votes.index(max(votes)) == labels[i]
    first = seen(KNNAccuracy(k=(7, 1)), feats[:25], labels[:25], split=10)
    second = seen(KNNAccuracy(k=(7, 1)), feats[25:], labels[25:])
    first.merge([first.state(), second.state()])
    assert first.compute()['top1_k7'] == pytest.approx(right / 60)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match='neighbours from 1 on'):
        KNNAccuracy(k=0)
    with pytest.raises(ValueError, match='temperature must be positive'):
        KNNAccuracy(temperature=0)
    with pytest.raises(ValueError, match='seen no item'):
        KNNAccuracy().compute()
    with pytest.raises(ValueError, match='k=20 neighbours among only 5'):
        seen(KNNAccuracy(), circle(), LABELS).compute()
    with pytest.raises(ValueError, match="extra\\['feats'\\]"):
        KNNAccuracy().update([DataSample()], [DataSample(label=torch.tensor(0))])
