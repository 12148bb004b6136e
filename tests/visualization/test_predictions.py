import numpy as np
import pytest
import torch

from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import RIGHT, WRONG
from openlab.visualization.predictions import (
    box_ious,
    count_errors,
    prediction_sheet,
    worst_first,
)


def labelled(index, probability=0.9):
    probs = torch.full((4,), (1 - probability) / 3)
    probs[index] = probability
    return DataSample(label=torch.tensor(index), label_probs=probs)


def boxes(*rows, labels=None, scores=None):
    return DataSample(boxes=torch.tensor(rows, dtype=torch.float).reshape(-1, 4),
                      labels=torch.tensor(labels or [0] * len(rows)),
                      scores=None if scores is None else torch.tensor(scores))


def test_errors_come_first_and_the_surest_of_them_on_top():
    predictions = [labelled(0), labelled(1, 0.5), labelled(2), labelled(1, 0.8)]
    errors = [count_errors(p, labelled(0)) for p in predictions[:2]] + [0.0, 1.0]
    assert worst_first(predictions, errors) == [3, 1, 0, 2]


def test_the_sheet_frames_errors_red_and_the_rest_green():
    images = [np.full((8, 8, 3), v, np.uint8) for v in (10, 60, 110)]
    sheet = prediction_sheet(images, [labelled(0), labelled(1), labelled(2)],
                             [labelled(0), labelled(3), labelled(2)], ['a', 'b', 'c', 'd'])
    half = sheet.shape[1] // 3
    first, second = sheet[:, :half], sheet[:, half:2 * half]
    assert (first == np.array(WRONG)).all(-1).sum() > 200
    assert (first == 60).all(-1).any()  # the wrong one has moved to the front
    assert (second == np.array(RIGHT)).all(-1).sum() > 200
    assert not (sheet == np.array(WRONG)).all(-1)[:, half:].any()


def test_a_sheet_holds_no_more_items_than_asked_for():
    images = [np.full((8, 8, 3), v, np.uint8) for v in range(20)]
    few = prediction_sheet(images, [labelled(0)] * 20, [labelled(0)] * 20, max_items=2)
    many = prediction_sheet(images, [labelled(0)] * 20, [labelled(0)] * 20)
    assert few.size < many.size
    assert (many == 19).all(-1).any()
    assert not (few == 19).all(-1).any()


def test_objects_count_as_errors_when_missed_invented_or_of_another_class():
    truth = boxes([0, 0, 10, 10], [20, 20, 30, 30], labels=[1, 2])
    assert count_errors(truth, truth) == 0
    assert count_errors(boxes([0, 0, 10, 9], labels=[1], scores=[.9]), truth) == 1
    assert count_errors(boxes([0, 0, 10, 10], labels=[2], scores=[.9]), truth) == 3
    twice = boxes([0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], labels=[1, 1, 2],
                  scores=[.9, .8, .7])
    assert count_errors(twice, truth) == 1
    assert count_errors(boxes([0, 0, 10, 10], labels=[1], scores=[.1]), truth) == 2
    assert count_errors(boxes(), boxes()) == 0


def test_a_semantic_map_counts_the_share_of_wrong_pixels_without_ignored_ones():
    truth = torch.tensor([[0, 1], [1, 255]])
    guess = torch.tensor([[0, 0], [1, 1]])
    assert count_errors(DataSample(semantic_map=guess),
                        DataSample(semantic_map=truth)) == pytest.approx(1 / 3)


def test_nothing_to_compare_is_no_error():
    assert count_errors(DataSample(), DataSample()) is None


def test_overlap_of_boxes_matches_a_hand_value():
    a = torch.tensor([[0.0, 0, 4, 4]])
    b = torch.tensor([[2.0, 0, 6, 4], [10, 10, 12, 12]])
    assert box_ious(a, b)[0].tolist() == pytest.approx([8 / 24, 0])


def test_sequences_of_different_length_are_refused():
    with pytest.raises(ValueError, match='1 images, 0 predictions'):
        prediction_sheet([np.zeros((8, 8, 3), np.uint8)], [], [])
