"""Each kind of error by hand: boxes of 10 x 10 pixels, maps of a few pixels."""

import pytest
import torch

from openlab.metrics.item_errors import count_at, find_errors, near_border, object_overlaps, task_of
from openlab.structures.data_sample import DataSample

OBJECT = [0, 0, 10, 10]
# Of 10 x 10 boxes moved by d pixels the IoU is (10 - d) / (10 + d).
NEAR = [2, 0, 12, 10]  # 8 / 12
PARTLY = [5, 0, 15, 10]  # 5 / 15
TOUCH = [9, 0, 19, 10]  # 1 / 19, below 0.1
FAR = [50, 50, 60, 60]


def boxes(*rows, labels=None, scores=None, crowd=None):
    return DataSample(
        boxes=torch.tensor(rows, dtype=torch.float).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else [0] * len(rows), dtype=torch.int64),
        scores=None if scores is None else torch.tensor(scores, dtype=torch.float),
        is_crowd=None if crowd is None else torch.tensor(crowd))


def kinds(prediction, truth, **options):
    errors = find_errors(prediction, truth, **options)
    return [v.kind for v in errors.predicted], [v.kind for v in errors.truths]


@pytest.mark.parametrize(('box', 'label', 'kind', 'true_kind', 'iou'), [
    (OBJECT, 0, 'right', 'right', 1),
    (NEAR, 0, 'right', 'right', 8 / 12),
    (NEAR, 1, 'class', 'covered', 8 / 12),
    (PARTLY, 0, 'location', 'covered', 5 / 15),
    (PARTLY, 1, 'both', 'missed', 5 / 15),
    (TOUCH, 0, 'background', 'missed', 1 / 19),
    (FAR, 0, 'background', 'missed', 0),
])
def test_one_prediction_is_of_the_kind_that_its_overlap_and_class_say(
        box, label, kind, true_kind, iou):
    errors = find_errors(boxes(box, labels=[label], scores=[0.9]), boxes(OBJECT))
    assert errors.predicted[0].kind == kind
    assert errors.predicted[0].iou == pytest.approx(iou, abs=1e-6)
    assert errors.truths[0].kind == true_kind


def test_the_second_on_an_object_is_a_duplicate_although_it_lies_better():
    prediction = boxes(OBJECT, NEAR, scores=[0.6, 0.7])
    assert kinds(prediction, boxes(OBJECT)) == (['duplicate', 'right'], ['right'])


def test_overlaps_at_the_limits_belong_to_the_better_kind():
    third = [0, 0, 10, 5]  # IoU 0.5 exactly
    tenth = [0, 0, 10, 1]  # 0.1 exactly
    assert kinds(boxes(third, scores=[1]), boxes(OBJECT)) == (['right'], ['right'])
    assert kinds(boxes(tenth, scores=[1]), boxes(OBJECT)) == (['location'], ['covered'])


def test_a_prediction_between_two_objects_is_judged_by_place_first():
    truth = boxes(OBJECT, [5, 0, 15, 10], labels=[0, 1])
    # 2 pixels off the first (8 / 12), 3 off the second (7 / 13): on both with either class.
    assert kinds(boxes([2, 0, 12, 10], labels=[2], scores=[1]), truth)[0] == ['class']
    # Of class 1 and 4 pixels from object 1 of that class (6 / 14): location, although it lies
    # well on object 0.
    assert kinds(boxes([1, 0, 11, 10], labels=[1], scores=[1]), truth)[0] == ['location']


def test_each_prediction_takes_the_best_object_that_is_left():
    truth = boxes([0, 0, 10, 10], [2, 0, 12, 10])
    errors = find_errors(boxes([1, 0, 11, 10], [2, 0, 12, 10], scores=[0.5, 0.9]), truth)
    assert [v.partner for v in errors.predicted] == [0, 1]
    assert [v.partner for v in errors.truths] == [0, 1]


def test_without_truth_everything_is_background_and_without_predictions_all_is_missed():
    alarms = find_errors(boxes(OBJECT, FAR, scores=[0.9, 0.8]), boxes())
    assert alarms.counts == {'background': 2}
    assert alarms.quality == 0
    lost = find_errors(boxes(scores=[]), boxes(OBJECT, FAR))
    assert lost.counts == {'missed': 2}
    assert lost.severity == 2
    nothing = find_errors(boxes(scores=[]), boxes())
    assert (nothing.counts, nothing.severity, nothing.quality) == ({}, 0, 1)
    assert nothing.is_right


def test_a_crowd_need_not_be_found_and_excuses_its_own_class():
    truth = boxes([0, 0, 40, 40], labels=[0], crowd=[True])
    inside = boxes([5, 5, 15, 15], [5, 5, 15, 15], [35, 0, 55, 10], labels=[0, 1, 0],
                   scores=[0.9, 0.9, 0.9])
    # The third lies to a quarter in it only.
    assert kinds(inside, truth) == (['ignored', 'background', 'background'], ['ignored'])
    assert find_errors(boxes(scores=[]), truth).counts == {}


def test_a_real_object_comes_before_the_crowd_around_it():
    truth = boxes([0, 0, 40, 40], OBJECT, crowd=[True, False])
    assert kinds(boxes(OBJECT, scores=[0.5]), truth) == (['right'], ['ignored', 'right'])


def test_the_severity_counts_errors_and_ranks_the_more_certain_of_equal_ones_first():
    sure = find_errors(boxes(OBJECT, FAR, scores=[0.9, 0.9]), boxes(OBJECT))
    unsure = find_errors(boxes(OBJECT, FAR, scores=[0.9, 0.4]), boxes(OBJECT))
    two = find_errors(boxes(FAR, scores=[0.31]), boxes(OBJECT))
    assert sure.severity == pytest.approx(1.0009)
    assert two.severity > sure.severity > unsure.severity
    # One hit, one false alarm: F1 = 1 / (1 + 1/2)
    assert sure.quality == pytest.approx(2 / 3)


def test_a_threshold_hides_predictions_and_what_they_find():
    prediction = boxes(PARTLY, OBJECT, FAR, scores=[0.8, 0.5, 0.2])
    truth = boxes(OBJECT)
    errors = find_errors(prediction, truth, score_threshold=0.1)
    assert [v.kind for v in errors.predicted] == ['location', 'right', 'background']
    assert errors.truths[0].found_at == pytest.approx(0.5)
    assert errors.truths[0].covered_at == pytest.approx(0.8)
    for threshold, counts in [(0.1, {'location': 1, 'background': 1}), (0.3, {'location': 1}),
                              (0.6, {'location': 1}), (0.9, {'missed': 1})]:
        assert count_at(errors, prediction.scores, threshold) == counts
        assert find_errors(prediction, truth, score_threshold=threshold).counts == counts


def test_hiding_less_certain_predictions_leaves_the_others_as_they_were():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        corner = torch.rand(12, 2, generator=generator) * 20
        rows = torch.cat([corner, corner + 8 + torch.rand(12, 2, generator=generator) * 4], 1)
        labels = torch.randint(0, 2, (12,), generator=generator)
        truth = DataSample(boxes=rows[:4], labels=labels[:4])
        scores = torch.rand(8, generator=generator)
        everything = DataSample(boxes=rows[4:], labels=labels[4:], scores=scores)
        keep = scores >= 0.5
        fewer = DataSample(boxes=rows[4:][keep], labels=labels[4:][keep], scores=scores[keep])
        all_kinds = [v.kind for v in find_errors(everything, truth).predicted]
        assert [k for k, kept in zip(all_kinds, keep) if kept] == [
            v.kind for v in find_errors(fewer, truth).predicted]
        assert count_at(find_errors(everything, truth), scores, 0.5) == \
            find_errors(fewer, truth).counts


def masks_of(*rows, labels, scores=None):
    masks = torch.tensor(rows).bool()
    return DataSample(masks=masks, labels=torch.tensor(labels),
                      boxes=torch.tensor([[0.0, 0, 4, 1]]).repeat(len(masks), 1),
                      scores=None if scores is None else torch.tensor(scores))


def test_instances_are_judged_by_their_masks_where_both_sides_have_them():
    truth = masks_of([[1, 1, 0, 0]], labels=[3])
    # The boxes are equal; of the pixels 1 of 3 is shared.
    prediction = masks_of([[0, 1, 1, 0]], labels=[3], scores=[0.9])
    assert task_of(prediction, truth) == 'instance'
    assert kinds(prediction, truth) == (['location'], ['covered'])
    assert kinds(prediction, truth, task='detection') == (['right'], ['right'])


def test_overlaps_give_the_share_inside_for_boxes_and_masks():
    half = boxes([0, 0, 20, 10], scores=[1])
    iou, inside = object_overlaps(half, boxes(OBJECT))
    assert (iou.item(), inside.item()) == (pytest.approx(0.5), pytest.approx(0.5))
    iou, inside = object_overlaps(masks_of([[0, 1, 1, 0]], labels=[0]),
                                  masks_of([[1, 1, 0, 0]], labels=[0]), by_mask=True)
    assert (iou.item(), inside.item()) == (pytest.approx(1 / 3), pytest.approx(0.5))


def panoptic(rows, segments):
    return DataSample(panoptic_map=torch.tensor(rows), segments=segments)


def test_panoptic_segments_follow_the_rules_of_panoptic_quality():
    truth = panoptic([[1, 1, 1, 1, 2, 2, 0, 0]], [{'id': 1, 'label': 0}, {'id': 2, 'label': 1}])
    # Segment 5 shares 4 of 4 pixels with 1; segment 6 has the pixels of 2, as another class.
    found = panoptic([[5, 5, 5, 5, 6, 6, 7, 7]], [
        {'id': 5, 'label': 0}, {'id': 6, 'label': 2}, {'id': 7, 'label': 2}])
    errors = find_errors(found, truth)
    assert errors.task == 'panoptic'
    assert [v.kind for v in errors.predicted] == ['right', 'class', 'ignored']  # 7: no truth there
    assert [v.kind for v in errors.truths] == ['right', 'covered']
    assert errors.counts == {'class': 1}
    # IoU 1 over one hit, one false alarm, one true segment not found
    assert errors.quality == pytest.approx(1 / 2)


def test_a_segment_of_half_the_overlap_has_not_been_found():
    truth = panoptic([[1, 1, 2, 2]], [{'id': 1, 'label': 0}, {'id': 2, 'label': 1}])
    found = panoptic([[1, 0, 2, 2]], [{'id': 1, 'label': 0}, {'id': 2, 'label': 1}])
    assert kinds(found, truth) == (['location', 'right'], ['covered', 'right'])


def test_segments_on_a_crowd_of_their_class_are_no_errors():
    truth = panoptic([[1, 1, 1, 1]], [{'id': 1, 'label': 0, 'is_crowd': True}])
    found = panoptic([[1, 1, 2, 2]], [{'id': 1, 'label': 0}, {'id': 2, 'label': 1}])
    assert kinds(found, truth) == (['ignored', 'background'], ['ignored'])


def maps(*rows):
    return DataSample(semantic_map=torch.tensor(rows))


def test_wrong_pixels_are_of_four_kinds():
    truth = maps([0] * 12, [0] * 12, [0] * 8 + [1] * 4, [255] * 8 + [2] * 4)
    guess = maps([0] * 11 + [1], [3] * 2 + [0] * 9 + [1], [0] * 7 + [1] * 5, [9] * 8 + [1] * 4)
    errors = find_errors(guess, truth)
    # Class 2 is predicted nowhere: 4 pixels missed. Class 3 (2 pixels) is nowhere in the truth;
    # 9 neither, but only where the truth is ignored. Of the three 1 that should be 0 two are next
    # to the true border, and the one above is not (a diagonal of 12.6 px reaches 1 px).
    assert errors.counts == {'missed': 4, 'invented': 2, 'border': 2, 'confused': 1}
    largest = errors.regions[0]
    assert (largest.kind, largest.true, largest.predicted, largest.pixels) == ('missed', 2, 1, 4)
    assert [v.kind for v in errors.truths] == ['right', 'right', 'missed']
    assert [v.kind for v in errors.predicted] == ['right', 'right', 'invented', 'invented']
    # IoU: 0 has 27 of 32 pixels; 1 has 4 of 11; 2 and 3 none.
    assert errors.quality == pytest.approx((27 / 32 + 4 / 11) / 4)
    assert errors.severity == pytest.approx(1 - errors.quality)


def test_one_class_in_the_place_of_another_is_a_confusion():
    errors = find_errors(maps([1, 1]), maps([0, 0]))
    assert errors.counts == {'confused': 2}
    assert [v.kind for v in errors.truths] == ['missed']


def test_pixels_without_prediction_are_wrong_and_without_truth_are_not():
    errors = find_errors(maps([0, 255, 0]), maps([0, 0, 255]))
    assert errors.counts == {'nothing': 1}
    assert errors.regions[0].predicted == -1
    everything_ignored = find_errors(maps([0, 1]), maps([255, 255]))
    assert (everything_ignored.counts, everything_ignored.quality) == ({}, 1)
    assert find_errors(maps([0, 1]), maps([0, 7]), ignore_index=7).counts == {}


def test_many_regions_are_merged_and_lose_no_pixel():
    generator = torch.Generator().manual_seed(0)
    truth = DataSample(semantic_map=torch.randint(0, 10, (40, 40), generator=generator))
    guess = DataSample(semantic_map=torch.randint(0, 10, (40, 40), generator=generator))
    errors = find_errors(guess, truth)
    wrong = (truth.semantic_map != guess.semantic_map).sum()
    assert len(errors.regions) <= 24 + 5
    assert sum(r.pixels for r in errors.regions) == wrong == sum(errors.counts.values())
    assert torch.stack([r.mask for r in errors.regions]).sum(0).max() == 1


def test_borders_are_as_wide_as_the_image_is_large():
    values = torch.zeros(30, 40, dtype=torch.int64)
    values[:, 20:] = 1
    assert near_border(values)[0].nonzero().flatten().tolist() == [19, 20]
    assert near_border(values, 0.06)[0].nonzero().flatten().tolist() == [17, 18, 19, 20, 21, 22]


def probs(*values, label=None):
    return DataSample(label_probs=torch.tensor(values),
                      label=None if label is None else torch.tensor(label))


@pytest.mark.parametrize(('values', 'kind', 'severity'), [
    ((0.7, 0.2, 0.1), 'right', -0.5),
    ((0.1, 0.85, 0.05), 'confident', 0.75),
    ((0.35, 0.6, 0.05), 'near', 0.25),
    ((0.1, 0.5, 0.4), 'mistake', 0.4),
])
def test_a_label_is_wrong_by_how_far_the_wrong_class_is_ahead(values, kind, severity):
    errors = find_errors(probs(*values), DataSample(label=torch.tensor(0)))
    assert errors.predicted[0].kind == kind
    assert errors.severity == pytest.approx(severity)
    assert errors.quality == pytest.approx(values[0])
    assert errors.counts == ({} if kind == 'right' else {kind: 1})


def test_a_label_without_probabilities_is_right_or_wrong():
    label = DataSample(label=torch.tensor(1))
    assert find_errors(label, label).severity == 0
    assert find_errors(label, DataSample(label=torch.tensor(2))).counts == {'mistake': 1}


def test_what_cannot_be_compared_is_told():
    assert find_errors(DataSample(), boxes(OBJECT)) is None
    with pytest.raises(ValueError, match=r'the prediction of a\.jpg has no masks, which the task'):
        find_errors(boxes(OBJECT), DataSample(meta={'img_path': 'a.jpg'}), task='instance')
    with pytest.raises(ValueError, match=r"task must be one of .*, got 'boxes'"):
        find_errors(boxes(OBJECT), boxes(OBJECT), task='boxes')
    with pytest.raises(ValueError, match=r'truth of a sample is \(1, 2\), but its prediction'):
        find_errors(maps([0, 0, 0]), maps([0, 0]))
