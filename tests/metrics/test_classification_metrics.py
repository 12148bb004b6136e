"""All metrics of classification against torchmetrics and scikit-learn, on the same predictions."""

import csv

import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from openlab.metrics.average_precision import MultiLabelAveragePrecision, average_precision
from openlab.metrics.calibration import CalibrationError
from openlab.metrics.confusion_matrix import ConfusionMatrix
from openlab.metrics.multi_label import MultiLabelF1
from openlab.metrics.precision_recall import PrecisionRecallF1
from openlab.structures.data_sample import DataSample

K = 7
torch.manual_seed(0)
LABELS = torch.randint(K - 1, (300,))  # the last class never occurs in truth
PROBS = (torch.randn(300, K) + 2 * torch.eye(K)[LABELS] - 9 * torch.eye(K)[K - 1]).softmax(1)
GUESS = PROBS.argmax(1)
MULTI = torch.rand(300, K) < 0.3
MULTI_PROBS = (MULTI.float() + torch.randn(300, K)).sigmoid()
ALL = [PrecisionRecallF1, ConfusionMatrix, CalibrationError]


def predictions_of(probs):
    return [DataSample(label=p.argmax(), label_probs=p) for p in probs]


def truth_of(labels):
    return [DataSample(label=v) for v in labels]


def fed(metric, probs=PROBS, truth=None, classes=None):
    truth = truth or truth_of(LABELS)
    if classes:
        metric.dataset_meta = {'classes': classes}
    for part in torch.arange(len(probs)).split(47):
        metric.update(predictions_of(probs[part]), [truth[i] for i in part])
    return metric


def printed(value):
    return f'{float(value):.4f}'


@pytest.mark.parametrize('average', ['macro', 'micro'])
def test_precision_recall_and_f1_equal_both_references(average):
    ours = fed(PrecisionRecallF1(average)).compute()
    reference = sk.precision_recall_fscore_support(
        LABELS, GUESS, average=average, zero_division=0)
    for name, value in zip(('precision', 'recall', 'f1'), reference):
        assert ours[name] == pytest.approx(value, abs=1e-12)
    for name, function in [('precision', tm.multiclass_precision),
                           ('recall', tm.multiclass_recall), ('f1', tm.multiclass_f1_score)]:
        assert printed(ours[name]) == printed(function(PROBS, LABELS, K, average=average))


def test_scores_of_each_class_carry_its_name_and_support():
    classes = tuple('abcdefg')
    ours = fed(PrecisionRecallF1('none'), classes=classes).compute()
    reference = sk.precision_recall_fscore_support(
        LABELS, GUESS, labels=range(K), zero_division=0)
    for kind, values in zip(('precision', 'recall', 'f1', 'support'), reference):
        for name, value in zip(classes, values):
            assert ours[f'{kind}_{name}'] == pytest.approx(value, abs=1e-12)


def test_several_averages_are_told_apart_by_name():
    names = fed(PrecisionRecallF1(('macro', 'micro'))).compute()
    assert set(names) == {f'{n}_{a}' for n in ('precision', 'recall', 'f1')
                          for a in ('macro', 'micro')}


def test_f1_of_several_labels_equals_scikit_learn():
    truth = [DataSample(label_probs=t.float()) for t in MULTI]
    ours = fed(PrecisionRecallF1('macro', threshold=0.5), MULTI_PROBS, truth).compute()
    expected = sk.f1_score(MULTI, MULTI_PROBS >= 0.5, average='macro')
    assert ours['f1'] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('topk', [None, 3])
def test_the_six_scores_of_papers_equal_both_references(topk):
    truth = [DataSample(label_probs=t.float()) for t in MULTI]
    ours = fed(MultiLabelF1(0.0 if topk else 0.5, topk), MULTI_PROBS, truth).compute()
    least = MULTI_PROBS.sort(1).values[:, [-topk]] if topk else 0.5
    guess = least <= MULTI_PROBS
    names = {'C': 'macro', 'O': 'micro'}
    for prefix, average in names.items():
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            MULTI, guess, average=average, zero_division=0)
        assert ours[f'{prefix}P'] == pytest.approx(precision, abs=1e-12)
        assert ours[f'{prefix}R'] == pytest.approx(recall, abs=1e-12)
        if prefix == 'O':
            assert ours['OF1'] == pytest.approx(f1, abs=1e-12)
        for name, function in [('P', tm.multilabel_precision), ('R', tm.multilabel_recall)]:
            value = function(guess.float(), MULTI.long(), K, average=average)
            assert printed(ours[prefix + name]) == printed(value)
    assert ours['CF1'] == pytest.approx(2 / (1 / ours['CP'] + 1 / ours['CR']), abs=1e-12)


def test_entries_that_truth_does_not_know_count_for_nothing():
    known = torch.rand(300) < 0.6
    rows = MULTI.float()
    rows[~known, 1] = -1
    truth = [DataSample(label_probs=t) for t in rows]
    precision = fed(PrecisionRecallF1('none', 0.5), MULTI_PROBS, truth).compute()
    expected = sk.precision_recall_fscore_support(
        MULTI[known, 1], MULTI_PROBS[known, 1] >= 0.5, average='binary')
    assert precision['precision_1'] == pytest.approx(expected[0], abs=1e-12)
    assert precision['recall_1'] == pytest.approx(expected[1], abs=1e-12)
    ranked = fed(MultiLabelAveragePrecision(per_class=True), MULTI_PROBS, truth).compute()
    assert ranked['AP_1'] == pytest.approx(
        sk.average_precision_score(MULTI[known, 1], MULTI_PROBS[known, 1]), abs=1e-9)
    six = fed(MultiLabelF1(), MULTI_PROBS, truth).compute()
    counted = rows >= 0
    assert six['OP'] == pytest.approx(
        sk.precision_score(MULTI[counted], MULTI_PROBS[counted] >= 0.5), abs=1e-12)


def test_truth_without_several_labels_is_refused_with_the_cure():
    with pytest.raises(ValueError, match='GatherLabels'):
        MultiLabelF1().update(predictions_of(PROBS[:1]), truth_of(LABELS[:1]))
    with pytest.raises(ValueError, match='topk must be at least 1'):
        MultiLabelF1(topk=0)


def test_confusion_matrix_equals_scikit_learn(tmp_path):
    metric = fed(ConfusionMatrix(out_file=str(tmp_path / 'a/matrix.csv')))
    ours = metric.compute()
    assert metric.matrix.tolist() == sk.confusion_matrix(LABELS, GUESS, labels=range(K)).tolist()
    assert ours['accuracy'] == pytest.approx(sk.accuracy_score(LABELS, GUESS))
    assert ours['balanced_accuracy'] == pytest.approx(sk.balanced_accuracy_score(LABELS, GUESS))
    assert ours['kappa'] == pytest.approx(sk.cohen_kappa_score(LABELS, GUESS))
    with (tmp_path / 'a/matrix.csv').open() as file:
        rows = list(csv.reader(file))
    assert [[int(v) for v in row[1:]] for row in rows[1:]] == metric.matrix.tolist()


def test_worst_mistakes_are_named():
    metric = ConfusionMatrix(3)
    metric.dataset_meta = {'classes': ('cat', 'dog', 'cow')}
    pairs = [(0, 1), (0, 1), (2, 0), (1, 1)]
    metric.update(truth_of(torch.tensor([p for _, p in pairs])),
                  truth_of(torch.tensor([t for t, _ in pairs])))
    assert metric.worst() == [('cat', 'dog', 2), ('cow', 'cat', 1)]


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match='must lie in 0 to 1, but truth or predictions hold 2'):
        ConfusionMatrix(2).update(truth_of(torch.tensor([1])), truth_of(torch.tensor([2])))
    with pytest.raises(ValueError, match='the number of classes is unknown'):
        ConfusionMatrix().update(truth_of(torch.tensor([1])), truth_of(torch.tensor([1])))


@pytest.mark.parametrize('num_bins', [1, 10, 15])
def test_calibration_error_equals_torchmetrics(num_bins):
    ours = fed(CalibrationError(num_bins)).compute()
    for name, norm in [('ece', 'l1'), ('mce', 'max')]:
        expected = tm.multiclass_calibration_error(PROBS, LABELS, K, n_bins=num_bins, norm=norm)
        assert printed(ours[name]) == printed(expected)


def test_calibration_error_of_a_certain_and_right_model_is_zero():
    metric = CalibrationError()
    metric.update(predictions_of(torch.eye(3)), truth_of(torch.arange(3)))
    assert metric.compute() == {'ece': 0, 'mce': 0}


@pytest.mark.parametrize('decimals', [1, 7])  # one decimal makes many equal scores
def test_average_precision_equals_scikit_learn(decimals):
    scores = MULTI_PROBS.double().mul(10**decimals).round().div(10**decimals).float()
    truth = [DataSample(label_probs=t.float()) for t in MULTI]
    ours = fed(MultiLabelAveragePrecision(per_class=True), scores, truth).compute()
    assert ours['mAP'] == pytest.approx(
        sk.average_precision_score(MULTI, scores, average='macro'), abs=1e-9)
    assert ours['AP_2'] == pytest.approx(
        sk.average_precision_score(MULTI[:, 2], scores[:, 2]), abs=1e-9)


def test_a_class_without_true_items_has_no_average_precision():
    assert average_precision(torch.rand(4), torch.zeros(4, dtype=torch.bool)) is None


@pytest.mark.parametrize('metric', [*ALL, MultiLabelAveragePrecision, MultiLabelF1])
def test_states_of_processes_merge_to_the_whole(metric):
    multi = metric in (MultiLabelAveragePrecision, MultiLabelF1)
    truth = [DataSample(label_probs=t.float()) for t in MULTI] if multi else truth_of(LABELS)
    probs = MULTI_PROBS if multi else PROBS
    whole = fed(metric(), probs, truth).compute()
    parts = [fed(metric(), probs[:100], truth[:100]), fed(metric(), probs[100:], truth[100:]),
             metric()]  # one process may have seen nothing
    parts[0].merge([p.state() for p in parts])
    assert parts[0].compute() == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize('metric', [*ALL, MultiLabelAveragePrecision, MultiLabelF1])
def test_no_item_at_all_is_an_error_and_reset_forgets(metric):
    with pytest.raises(ValueError, match='has seen no item'):
        metric().compute()
    if metric in ALL:
        used = fed(metric())
        used.reset()
        assert fed(used).compute() == fed(metric()).compute()


@pytest.mark.parametrize('metric', ALL)
def test_state_does_not_grow_with_the_number_of_items(metric):
    once, twice = fed(metric()).state(), fed(fed(metric())).state()
    assert once.shape == twice.shape
