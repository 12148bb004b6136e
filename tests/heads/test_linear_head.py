import pytest
import torch

from openlab.heads.linear_head import LinearHead, stack_targets
from openlab.layers.pool import GlobalPool
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss, CrossEntropyLoss
from openlab.structures.data_sample import DataSample


def samples_of(*labels):
    return [DataSample(meta={'img_id': i}, label=torch.tensor(v)) for i, v in enumerate(labels)]


def test_head_classifies_the_mean_of_the_last_map():
    head = LinearHead(3, 4)
    maps = (torch.randn(2, 9, 8, 8), torch.randn(2, 4, 5, 5))
    torch.testing.assert_close(head(maps), head.fc(maps[1].mean((2, 3))))
    torch.testing.assert_close(LinearHead(3, 4, pool=GlobalPool('max')).pool(maps[1]),
                               maps[1].amax((2, 3)))


def test_head_takes_vectors_as_they_are():
    head = LinearHead(3, 4)
    vectors = torch.randn(2, 4)
    torch.testing.assert_close(head((vectors,)), head.fc(vectors))


def test_loss_states_the_number_of_items_it_is_a_mean_over():
    head = LinearHead(3, 4, loss=CrossEntropyLoss(ignore_index=-1))
    losses = head.loss(torch.randn(4, 3), samples_of(0, 1, -1, 2))
    assert losses['num_items'] == 3
    assert losses['loss_cls'].isfinite()


def test_prediction_names_the_likeliest_class_and_keeps_the_meta():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    predictions = LinearHead(3, 4).predict(logits, samples_of(0, 0))
    assert [p.label.item() for p in predictions] == [1, 0]
    assert [p.meta['img_id'] for p in predictions] == [0, 1]
    torch.testing.assert_close(torch.stack([p.label_probs for p in predictions]), logits.softmax(1))


def test_multi_label_head_gives_independent_probabilities():
    head = LinearHead(3, 4, loss=BinaryCrossEntropyLoss())
    truth = [DataSample(label_probs=torch.tensor([1.0, 0.0, 1.0]))]
    assert head.loss(torch.zeros(1, 3), truth)['loss_cls'].item() == pytest.approx(0.693147)
    assert head.predict(torch.zeros(1, 3), truth)[0].label_probs.tolist() == [0.5, 0.5, 0.5]


def test_one_soft_label_makes_the_whole_batch_soft():
    mixed = [*samples_of(2), DataSample(label_probs=torch.tensor([0.25, 0.75, 0.0]))]
    assert stack_targets(mixed, 3).tolist() == [[0, 0, 1], [0.25, 0.75, 0]]
    assert stack_targets(samples_of(2, 0), 3).tolist() == [2, 0]


def test_missing_or_misshapen_truth_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sample 'a\.png' has no label"):
        stack_targets([DataSample(meta={'img_path': 'a.png'})], 3)
    with pytest.raises(ValueError, match='2 class probabilities but the head has num_classes=3'):
        stack_targets([DataSample(label_probs=torch.ones(2))], 3)
    with pytest.raises(ValueError, match='needs in_channels'):
        LinearHead(3)
