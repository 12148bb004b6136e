import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality as TheirPanopticQuality

from openlab.metrics.panoptic import PanopticQuality
from openlab.structures.data_sample import DataSample

K, STUFF = 4, (2, 3)
SIZE = 24


def random_sample(rng, image, crowds=False, blank=0.1):
    """Blocks of a few segments, some without one; each stuff class at most once."""
    segments, stuff = [], set()
    for i in range(int(rng.integers(2, 8))):
        label = int(rng.integers(K))
        if label in stuff:
            continue
        stuff |= {label} & set(STUFF)
        segments.append({'id': 5 * i + 3, 'label': label,
                         'is_crowd': bool(crowds and label not in STUFF and rng.random() < 0.4)})
    ids = [0, *(s['id'] for s in segments)]
    chances = [blank, *[(1 - blank) / len(segments)] * len(segments)]
    blocks = rng.choice(ids, p=chances, size=(SIZE // 4, SIZE // 4))
    segment_map = torch.from_numpy(np.kron(blocks, np.ones((4, 4), dtype=np.int64)))
    segments = [s for s in segments if (segment_map == s['id']).any()]
    return DataSample(meta={'img_id': image, 'ori_shape': (SIZE, SIZE)},
                      panoptic_map=segment_map, segments=segments)


def blurred(rng, truth):
    """A prediction: the truth with blocks swapped, labels changed and new ids."""
    segment_map = truth.panoptic_map.clone()
    for _ in range(int(rng.integers(6))):
        y, x, v, u = rng.integers(0, SIZE - 5, 4)
        segment_map[y:y + 5, x:x + 5] = truth.panoptic_map[v:v + 5, u:u + 5].clone()
    segments = []
    for segment in truth.segments:
        label = int(rng.integers(K)) if rng.random() < 0.2 else segment['label']
        segments.append({'id': segment['id'] + 100, 'label': label, 'score': 1.0})
    segment_map[segment_map > 0] += 100
    return DataSample(meta=dict(truth.meta), panoptic_map=segment_map, segments=[
        s for s in segments if (segment_map == s['id']).any()])


def make_pairs(count, **arguments):
    rng = np.random.default_rng(0)
    truths = [random_sample(rng, i, **arguments) for i in range(count)]
    return [blurred(rng, t) for t in truths], truths


def slow_counts(predictions, truths):
    """COCO's rules, written down pixel set by pixel set."""
    iou_sum, tp, fp, fn = ([0.0] * K for _ in range(4))
    for prediction, truth in zip(predictions, truths):
        void = set((truth.panoptic_map == 0).flatten().nonzero().flatten().tolist())

        def pixels(sample, segment):
            inside = sample.panoptic_map == segment['id']
            return set(inside.flatten().nonzero().flatten().tolist())

        hit_truth, hit_found = set(), set()
        for found in prediction.segments:
            for true in truth.segments:
                if true.get('is_crowd') or true['label'] != found['label']:
                    continue
                a, b = pixels(prediction, found) - void, pixels(truth, true)
                if len(a & b) / len(a | b) > 0.5:
                    iou_sum[true['label']] += len(a & b) / len(a | b)
                    tp[true['label']] += 1
                    hit_truth.add(true['id'])
                    hit_found.add(found['id'])
        for true in truth.segments:
            if true['id'] not in hit_truth and not true.get('is_crowd'):
                fn[true['label']] += 1
        for found in prediction.segments:
            if found['id'] in hit_found:
                continue
            mine = pixels(prediction, found)
            excuse = len(mine & void) + sum(
                len(mine & pixels(truth, t)) for t in truth.segments
                if t.get('is_crowd') and t['label'] == found['label'])
            if excuse / len(mine) <= 0.5:
                fp[found['label']] += 1
    return np.array([iou_sum, tp, fp, fn]).T


def test_counts_equal_a_slow_count_with_crowds_and_pixels_without_truth():
    predictions, truths = make_pairs(40, crowds=True, blank=0.3)
    metric = PanopticQuality(K, STUFF)
    metric.update(predictions, truths)
    expected = slow_counts(predictions, truths)
    assert (expected.sum(0) > 5).all()  # every kind of outcome occurs
    np.testing.assert_allclose(metric.sums.numpy(), expected, rtol=1e-12)


def as_theirs(sample):
    labels, ids = torch.full((SIZE, SIZE), 99), torch.zeros(SIZE, SIZE, dtype=torch.long)
    for segment in sample.segments:
        mask = sample.panoptic_map == segment['id']
        labels[mask], ids[mask] = segment['label'], segment['id']
    return torch.stack([labels, ids], -1)


def test_quality_equals_torchmetrics_without_crowds():
    predictions, truths = make_pairs(30)
    for p in predictions:  # theirs knows one segment of a stuff class at most
        p.segments = [s for i, s in enumerate(p.segments) if s['label'] not in STUFF
                      or s['label'] not in [t['label'] for t in p.segments[:i]]]
        known = torch.tensor([s['id'] for s in p.segments])
        # and excuses misses where nothing was predicted, unlike COCO
        p.panoptic_map[~torch.isin(p.panoptic_map, known)] = known[0]
    metric = PanopticQuality(K, STUFF)
    theirs = TheirPanopticQuality(
        things={0, 1}, stuffs=set(STUFF), allow_unknown_preds_category=True,
        return_sq_and_rq=True, return_per_class=False)
    for p, t in zip(predictions, truths):
        metric.update([p], [t])
        theirs.update(as_theirs(p)[None], as_theirs(t)[None])
    ours = metric.compute()
    assert [ours['PQ'], ours['SQ'], ours['RQ']] == pytest.approx(
        theirs.compute().flatten().tolist(), abs=1e-6)
    assert 0.2 < ours['PQ'] < 0.9


def test_a_hand_made_case():
    truth = DataSample(
        meta={'img_id': 1, 'ori_shape': (1, 10)},
        panoptic_map=torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0]]),
        segments=[{'id': 1, 'label': 0}, {'id': 2, 'label': 1}])
    found = DataSample(
        meta=dict(truth.meta), panoptic_map=torch.tensor([[7, 7, 7, 8, 9, 9, 9, 9, 9, 9]]),
        segments=[{'id': 7, 'label': 0}, {'id': 8, 'label': 0}, {'id': 9, 'label': 1}])
    metric = PanopticQuality(per_class=True)
    metric.dataset_meta = {'classes': ('cat', 'sky', 'sea'), 'is_thing': (True, False, False)}
    metric.update([found], [truth])
    result = metric.compute()
    # cat: IoU 3/4 and one false alarm; sky: found whole, the pixel without truth does not count
    assert result['PQ_cat'] == pytest.approx(0.75 / 1.5)
    assert result['PQ_sky'] == 1 and result['PQ_sea'] == -1
    assert result['PQ'] == pytest.approx(0.75)
    assert result['SQ'] == pytest.approx((0.75 + 1) / 2)
    assert result['PQ_things'] == pytest.approx(0.5) and result['PQ_stuff'] == 1


def test_parts_of_several_processes_add_up():
    predictions, truths = make_pairs(6)
    whole, first, second, idle = (PanopticQuality(K, STUFF) for _ in range(4))
    whole.update(predictions, truths)
    first.update(predictions[:2], truths[:2])
    second.update(predictions[2:], truths[2:])
    first.merge([first.state(), second.state(), idle.state()])
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_maps_are_compared_in_original_pixels():
    truth = DataSample(
        meta={'img_id': 1, 'ori_shape': (2, 2), 'matrix': np.diag([2.0, 2.0, 1.0])},
        panoptic_map=torch.ones(4, 4, dtype=torch.long), segments=[{'id': 1, 'label': 0}])
    metric = PanopticQuality(1)
    metric.update([truth], [truth])
    assert metric.compute()['PQ'] == 1


def test_images_without_any_segment_count_nothing():
    empty = DataSample(meta={'img_id': 1, 'ori_shape': (2, 2)},
                       panoptic_map=torch.zeros(2, 2, dtype=torch.long), segments=[])
    metric = PanopticQuality(2)
    metric.update([empty], [empty])
    assert metric.compute()['PQ'] == -1


@pytest.mark.parametrize(('segments', 'message'), [
    ([{'id': 1, 'label': 0}], 'no segment has the id 4'),
    ([{'id': 1, 'label': 0}, {'id': 4, 'label': 0}, {'id': 4, 'label': 1}], 'ids repeat'),
    ([{'id': 1, 'label': 0}, {'id': 4, 'label': 9}], 'from 0 to 1')])
def test_maps_and_segments_that_do_not_fit_are_refused(segments, message):
    sample = DataSample(meta={'img_id': 3, 'ori_shape': (1, 2)},
                        panoptic_map=torch.tensor([[1, 4]]), segments=segments)
    with pytest.raises(ValueError, match=message):
        PanopticQuality(2).update([sample], [sample])


def test_predictions_of_another_task_are_refused():
    sample = DataSample(meta={'img_id': 3, 'ori_shape': (1, 2)})
    with pytest.raises(ValueError, match='prediction 3 has no panoptic_map'):
        PanopticQuality(2).update([sample], [sample])
