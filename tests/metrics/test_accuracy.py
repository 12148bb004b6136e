import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from openlab.metrics.accuracy import Accuracy
from openlab.structures.data_sample import DataSample


def predictions_of(probs):
    return [DataSample(label=p.argmax(), label_probs=p) for p in probs]


def truth_of(labels):
    return [DataSample(label=torch.as_tensor(v)) for v in labels]


def test_accuracy_equals_torchmetrics():
    torch.manual_seed(0)
    probs, labels = torch.randn(200, 10).softmax(1), torch.randint(10, (200,))
    metric = Accuracy(topk=(1, 3, 5))
    for part in torch.arange(200).split(33):
        metric.update(predictions_of(probs[part]), truth_of(labels[part]))
    for k in (1, 3, 5):
        expected = multiclass_accuracy(probs, labels, 10, top_k=k, average='micro')
        assert metric.compute()[f'top{k}'] == pytest.approx(expected.item(), abs=1e-7)


def test_states_of_two_processes_merge_to_the_whole():
    probs, labels = torch.randn(10, 4).softmax(1), torch.randint(4, (10,))
    whole, parts = Accuracy((1, 2)), [Accuracy((1, 2)), Accuracy((1, 2))]
    whole.update(predictions_of(probs), truth_of(labels))
    parts[0].update(predictions_of(probs[:3]), truth_of(labels[:3]))
    parts[1].update(predictions_of(probs[3:]), truth_of(labels[3:]))
    parts[1].merge([p.state() for p in parts])
    assert parts[1].compute() == whole.compute()


def test_soft_truth_counts_as_its_likeliest_class():
    metric = Accuracy()
    # mixing keeps the label that the first image had
    truth = DataSample(label=torch.tensor(0), label_probs=torch.tensor([0.3, 0.7]))
    metric.update([DataSample(label=torch.tensor(1))], [truth])
    assert metric.compute() == {'top1': 1.0}
    with pytest.raises(ValueError, match='sample 0 of a batch has neither label'):
        metric.update([DataSample(label=torch.tensor(1))], [DataSample()])


def test_reset_forgets():
    metric = Accuracy()
    metric.update(truth_of([1]), truth_of([0]))
    metric.reset()
    metric.update(truth_of([1]), truth_of([1]))
    assert metric.compute() == {'top1': 1.0}


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match='is the evaluation dataset empty'):
        Accuracy().compute()
    with pytest.raises(ValueError, match='topk=5 guesses among only 3 classes'):
        Accuracy(5).update(predictions_of(torch.ones(1, 3)), truth_of([0]))
    with pytest.raises(ValueError, match='needs label_probs'):
        Accuracy((1, 2)).update(truth_of([0]), truth_of([0]))
    with pytest.raises(ValueError, match='topk must'):
        Accuracy(0)
