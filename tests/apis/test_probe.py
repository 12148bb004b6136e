import json
import math

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from openlab.apis.probe import (
    _loader,
    _some,
    extract_features,
    knn_accuracy,
    knn_votes,
    linear_probe,
    probe,
    score_of,
)
from openlab.apis.visualization import build_loader, build_model
from openlab.cli import main
from openlab.config import load_config

K = 4
torch.manual_seed(0)
CENTERS = torch.randn(K, 12)
TRAIN_LABELS, TEST_LABELS = torch.randint(K, (160,)), torch.randint(K, (90,))
TRAIN = CENTERS[TRAIN_LABELS] + 1.5 * torch.randn(160, 12)
TEST = CENTERS[TEST_LABELS] + 1.5 * torch.randn(90, 12)


@pytest.mark.parametrize(('k', 'temperature'), [(1, 0.07), (5, 0.07), (20, 0.2), (500, 1.0)])
def test_votes_equal_those_of_scikit_learn(k, temperature):
    reference = KNeighborsClassifier(
        min(k, 160), metric='cosine', algorithm='brute',
        weights=lambda distance: np.exp((1 - distance) / temperature))
    reference.fit(TRAIN, TRAIN_LABELS)
    votes = knn_votes(TRAIN, TRAIN_LABELS, TEST, k, temperature)
    np.testing.assert_allclose(votes, reference.predict_proba(TEST), rtol=1e-4, atol=1e-5)
    score = knn_accuracy(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, k, temperature)
    assert score.value == pytest.approx(reference.score(TEST, TEST_LABELS), abs=1e-12)
    assert score.total == 90


def test_a_small_temperature_does_not_overflow():
    votes = knn_votes(TRAIN, TRAIN_LABELS, TEST, 5, 1e-4)
    assert votes.isfinite().all()
    nearest = knn_votes(TRAIN, TRAIN_LABELS, TEST, 1)
    assert (votes.argmax(1) == nearest.argmax(1)).all()


def test_without_items_to_judge_each_is_judged_by_the_others():
    score = knn_accuracy(TRAIN, TRAIN_LABELS, k=5)
    hits = 0
    for i in range(160):
        rest = torch.arange(160) != i
        votes = knn_votes(TRAIN[rest], TRAIN_LABELS[rest], TRAIN[i:i + 1], 5, num_classes=K)
        hits += int(votes.argmax() == TRAIN_LABELS[i])
    assert score.value == hits / 160 < 1
    # an item is its own nearest neighbour where it may vote for itself
    assert knn_accuracy(TRAIN, TRAIN_LABELS, TRAIN, TRAIN_LABELS, k=1).value == 1


@pytest.mark.parametrize('l2', [1e-3, 0.1])
def test_linear_classifier_equals_that_of_scikit_learn(l2):
    scaler = StandardScaler().fit(TRAIN)
    reference = LogisticRegression(C=1 / (l2 * 160), tol=1e-10, max_iter=5000)
    reference.fit(scaler.transform(TRAIN), TRAIN_LABELS)
    found = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=l2)
    np.testing.assert_allclose(found.weight, reference.coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias - found.bias.mean(),
                               reference.intercept_ - reference.intercept_.mean(), rtol=1e-3,
                               atol=1e-4)
    np.testing.assert_allclose(found.logits(TEST).softmax(1),
                               reference.predict_proba(scaler.transform(TEST)), atol=1e-4)
    assert found.score.value == pytest.approx(
        reference.score(scaler.transform(TEST), TEST_LABELS), abs=1e-12)
    assert found.l2 == l2 and found.tried == {}


def test_the_penalty_is_the_best_on_held_out_items_and_never_sees_those_to_judge():
    penalties = [0.01, 0.1, 1.0, 10.0]
    found = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, penalties)
    assert sorted(found.tried) == penalties
    assert found.tried[found.l2] == max(found.tried.values())
    assert found.l2 == max(p for p, v in found.tried.items() if v == found.tried[found.l2])
    other = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS.roll(1), penalties)
    assert other.l2 == found.l2 and other.tried == found.tried
    fixed = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=found.l2)
    assert torch.equal(fixed.weight, found.weight)  # fitted anew to all training items


def test_constant_features_and_classes_of_one_item_are_no_trouble():
    feats = torch.cat([TRAIN, torch.full((160, 1), 0.1)], 1)
    test = torch.cat([TEST, torch.full((90, 1), 0.1)], 1)
    labels = TRAIN_LABELS.clone()
    labels[0] = K  # the only one of its class
    found = linear_probe(feats, labels, test, TEST_LABELS, [0.01, 0.1])
    assert found.weight.isfinite().all() and found.score.value > 0.5


@pytest.mark.parametrize(('hits', 'total', 'confidence', 'expected'), [
    # by hand from (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.959964, 1.644854
    (8, 10, 0.95, (0.490162, 0.943318)), (50, 100, 0.95, (0.403832, 0.596168)),
    (8, 10, 0.9, (0.540793, 0.931442))])
def test_scores_carry_the_interval_worked_out_by_hand(hits, total, confidence, expected):
    predicted = (torch.arange(total) >= hits).long()
    score = score_of(predicted, torch.zeros(total, dtype=torch.int64), confidence)
    assert score.value == hits / total and score.total == total
    assert (score.low, score.high) == pytest.approx(expected, abs=1e-5)
    assert str(score).startswith(f'{hits / total:.4f} (0.')


def test_intervals_hold_the_true_share_as_often_as_promised():
    n, share = 40, 0.85
    covered = 0.0
    for hits in range(n + 1):
        score = score_of((torch.arange(n) >= hits).long(), torch.zeros(n).long(), 0.9)
        covered += (score.low <= share <= score.high) * math.comb(n, hits) * share**hits * (
            1 - share)**(n - hits)
    assert 0.87 < covered < 0.95


@pytest.mark.parametrize(('call', 'message'), [
    (lambda: score_of(TEST_LABELS, TEST_LABELS, 1.0), 'confidence must lie'),
    (lambda: score_of(TEST_LABELS[:0], TEST_LABELS[:0]), 'successes'),
    (lambda: knn_votes(TRAIN, TRAIN_LABELS[:5]), 'must fit'),
    (lambda: knn_votes(TRAIN, TRAIN_LABELS, TEST[:, :3]), 'features to judge are'),
    (lambda: knn_votes(TRAIN, TRAIN_LABELS, TEST, 0), 'must be positive'),
    (lambda: knn_votes(TRAIN[:1], TRAIN_LABELS[:1]), 'no neighbour'),
    (lambda: knn_accuracy(TRAIN, TRAIN_LABELS, TEST), 'go together'),
    (lambda: linear_probe(TRAIN / 0, TRAIN_LABELS, TEST, TEST_LABELS), 'NaN or infinite'),
    (lambda: linear_probe(TRAIN, TRAIN_LABELS * 0, TEST, TEST_LABELS), 'two classes'),
    (lambda: linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=[]), 'empty list'),
])
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope='module')
def quickstart():
    return load_config('quickstart/classification', ['env=null'])


def test_features_are_the_pooled_output_in_the_order_of_the_data(quickstart):
    torch.manual_seed(0)
    model = build_model(quickstart)
    loader = build_loader(quickstart, 'val')
    feats, labels = extract_features(model, loader)
    assert feats.shape == (449, 64) and labels.tolist() == list(loader.source.labels())
    with torch.no_grad():
        batch = next(iter(loader))
        inputs = model.preprocessor(batch)['inputs']
        torch.testing.assert_close(feats[:150], model.backbone(inputs)[-1].mean((2, 3)))
        logits, _ = extract_features(model, [batch], layer='head')
        torch.testing.assert_close(logits, model(inputs))


def test_a_layer_that_makes_no_features_is_named_with_those_that_do(capsys):
    assert main(['probe', 'quickstart/selfsup', '--layer', 'projector', '--max-batches', '1']) == 2
    message = capsys.readouterr().err
    assert "SimCLR has a layer 'projector', but does not run it" in message
    assert 'backbone.stages.0' in message and 'pool' in message


def test_the_command_probes_and_writes_what_it_prints(quickstart, tmp_path, capsys):
    out = tmp_path / 'probe.json'
    assert main(['probe', 'quickstart/classification', '--max-batches', '2', '--k', '5',
                 '--l2', '0.01', '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())['metrics']
    for name in ('knn', 'linear'):
        score = record[name]
        assert f'{score["value"]:.4f}' in printed
        assert score['low'] < score['value'] < score['high'] and score['total'] == 300
    assert '64 features of 300 images' in printed
    # random features of digits are far better than chance already
    assert record['linear']['value'] > 0.6


def test_training_images_are_prepared_as_those_of_validation(quickstart):
    cfg = load_config('quickstart/classification', ['env=null'])
    torch.manual_seed(0)
    model = build_model(cfg)
    seen, _ = extract_features(model, _some(_loader(cfg, 'train'), 2))
    plain = load_config('quickstart/classification', [
        'env=null', 'val_dataloader.dataset.split=train'])
    expected, _ = extract_features(model, _some(build_loader(plain, 'val'), 2))
    assert torch.equal(seen, expected)
    with pytest.raises(ValueError, match="methods are 'knn' and 'linear'"):
        probe(cfg, None, methods=['kmeans'])


def test_a_part_of_a_set_sorted_by_class_holds_items_of_all_classes(tmp_path):
    for name in 'abcd':
        (tmp_path / name).mkdir()
        for i in range(6):
            cv2.imwrite(str(tmp_path / name / f'{i}.png'), np.zeros((8, 8, 3), np.uint8))
    folder = {'type': 'ImageFolder', 'data_root': str(tmp_path),
              'pipeline': [{'type': 'LoadImage'}, {'type': 'PackInputs'}]}
    cfg = {'train_dataloader': {'dataset': folder},
           'val_dataloader': {'batch_size': 6, 'dataset': folder}, 'randomness': {'seed': 0}}
    for part in ('train', 'val'):
        in_order = next(iter(_loader(cfg, part)))['samples']
        drawn = next(iter(_loader(cfg, part, shuffle=True)))['samples']
        assert len({int(s.label) for s in in_order}) == 1 < len({int(s.label) for s in drawn})


def test_weights_without_a_head_are_enough(quickstart, tmp_path):
    torch.manual_seed(0)
    state = {n: v for n, v in build_model(quickstart).state_dict().items() if 'head' not in n}
    torch.save(state, tmp_path / 'backbone.pth')
    found = probe(quickstart, tmp_path / 'backbone.pth', max_batches=1, methods=['knn'])
    assert found['knn'].total == 150


def test_without_weights_those_are_probed_that_training_would_start_from(quickstart, tmp_path):
    model = build_model(quickstart)
    for parameter in model.backbone.parameters():  # features that tell nothing
        torch.nn.init.zeros_(parameter)
    torch.save(model.state_dict(), tmp_path / 'dead.pth')
    cfg = {**quickstart, 'load_from': {'source': str(tmp_path / 'dead.pth')}}
    told = probe(cfg, None, max_batches=1, methods=['knn'])['knn']
    assert told.value < 0.3 < probe(quickstart, None, max_batches=1, methods=['knn'])['knn'].value
