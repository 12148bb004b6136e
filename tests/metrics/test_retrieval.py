import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional import retrieval as tm

from openlab.metrics.retrieval import RetrievalMetric
from openlab.structures.data_sample import DataSample


def fed(metric, embeddings, labels, roles=None, part=7):
    for chunk in torch.arange(len(labels)).split(part):
        metric.update(
            [DataSample(extra={'embedding': embeddings[i]}) for i in chunk],
            [DataSample(label=labels[i], meta={'role': roles[i]} if roles else {}) for i in chunk])
    return metric


def test_results_are_those_worked_out_by_hand():
    # The query (angle 0) ranks the gallery by angle: match, other, match, other.
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1) * 3  # lengths do not matter
    labels = torch.tensor([1, 1, 0, 1, 2])
    found = fed(RetrievalMetric((1, 2), (1, 2, 3, 10)), embeddings, labels,
                ['query'] + ['gallery'] * 4).compute()
    assert found == {
        'mAP': pytest.approx((1 + 2 / 3) / 2), 'recall@1': 1, 'recall@2': 1, 'precision@1': 1,
        'precision@2': 0.5, 'precision@3': pytest.approx(2 / 3), 'precision@10': 0.5, 'queries': 1}


@pytest.mark.parametrize('with_roles', [True, False])
def test_results_equal_those_of_torchmetrics_and_scikit_learn(with_roles):
    torch.manual_seed(0)
    embeddings, labels = torch.randn(60, 5), torch.randint(6, (60,))
    labels[3] = 9  # nothing to find for this one
    roles = ['query' if i % 3 == 0 else 'gallery' for i in range(60)] if with_roles else None
    ours = fed(RetrievalMetric((1, 4), (1, 4)), embeddings, labels, roles).compute()
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    rows = []
    for q in range(60):
        if with_roles and roles[q] != 'query':
            continue
        others = [i for i in range(60) if i != q and (not with_roles or roles[i] == 'gallery')]
        # torchmetrics takes scores of 0 and below for items that were not found
        scores, target = unit[others] @ unit[q] + 2, labels[others] == labels[q]
        if not target.any():
            continue
        rows.append([average_precision_score(target, scores),
                     float(tm.retrieval_average_precision(scores, target)),
                     *(float(tm.retrieval_hit_rate(scores, target, top_k=k)) for k in (1, 4)),
                     *(float(tm.retrieval_precision(scores, target, top_k=k)) for k in (1, 4))])
    expected = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    assert ours['queries'] == len(rows) == (19 if with_roles else 59)
    names = ('mAP', 'mAP', 'recall@1', 'recall@4', 'precision@1', 'precision@4')
    for name, value in zip(names, expected, strict=True):
        assert ours[name] == pytest.approx(value, abs=1e-6)
        assert f'{ours[name]:.4f}' == f'{value:.4f}'


def test_equal_scores_keep_the_order_of_the_gallery():
    same = torch.ones(3, 2)
    found = fed(RetrievalMetric((1,), (1,)), same, torch.tensor([1, 0, 1]),
                ['query', 'gallery', 'gallery']).compute()
    assert (found['mAP'], found['recall@1']) == (0.5, 0)


def test_states_of_processes_merge_to_the_whole():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(30, 4), torch.randint(3, (30,))
    whole = fed(RetrievalMetric(), embeddings, labels).compute()
    parts = [fed(RetrievalMetric(), embeddings[:11], labels[:11]),
             fed(RetrievalMetric(), embeddings[11:], labels[11:]), RetrievalMetric()]
    parts[0].merge([p.state() for p in parts])
    assert parts[0].compute() == pytest.approx(whole, abs=1e-12)
    parts[0].reset()
    assert fed(parts[0], embeddings, labels).compute() == pytest.approx(whole, abs=1e-12)


def test_what_cannot_be_measured_is_told():
    with pytest.raises(ValueError, match='has seen no item'):
        RetrievalMetric().compute()
    with pytest.raises(ValueError, match='none of 2 queries has a match among 2'):
        fed(RetrievalMetric(), torch.randn(2, 3), torch.tensor([0, 1])).compute()
    with pytest.raises(ValueError, match="not 'test'"):
        fed(RetrievalMetric(), torch.randn(1, 3), torch.tensor([0]), ['test'])
    with pytest.raises(ValueError, match='as ImageRetriever gives'):
        RetrievalMetric().update([DataSample()], [DataSample(label=torch.tensor(0))])
    with pytest.raises(ValueError, match='k must be at least 1'):
        RetrievalMetric(recall=(0,))
