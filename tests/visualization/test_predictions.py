import numpy as np
import pytest
import torch

from openlab.metrics.item_errors import find_errors
from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import RIGHT, WRONG, class_colour
from openlab.visualization.predictions import (
    count_words,
    hex_colour,
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


def sheet(images, predictions, truths, **options):
    errors = [find_errors(p, t) for p, t in zip(predictions, truths)]
    return prediction_sheet(images, predictions, truths, errors, **options)


def count(picture, colour):
    return int((picture == np.array(colour)).all(-1).sum())


def test_errors_come_first_and_the_surest_of_them_on_top():
    predictions = [labelled(0), labelled(1, 0.5), labelled(2), labelled(1, 0.8)]
    errors = [find_errors(p, labelled(0)) for p in predictions]
    assert worst_first(errors) == [2, 3, 1, 0]
    assert worst_first([None, errors[0], errors[2]]) == [2, 1, 0]


def test_the_sheet_frames_errors_red_and_the_rest_green():
    images = [np.full((8, 8, 3), v, np.uint8) for v in (10, 60, 110)]
    picture = sheet(images, [labelled(0), labelled(1), labelled(2)],
                    [labelled(0), labelled(3), labelled(2)], classes=['a', 'b', 'c', 'd'])
    third = picture.shape[1] // 3
    first, second = picture[:, :third], picture[:, third:2 * third]
    assert count(first, WRONG) > 200
    assert count(first, (60,) * 3)  # the wrong one has moved to the front
    assert count(second, RIGHT) > 200
    assert not count(picture[:, third:], WRONG)


def test_a_sheet_holds_no_more_items_than_asked_for():
    images = [np.full((8, 8, 3), v, np.uint8) for v in range(20)]
    few = sheet(images, [labelled(0)] * 20, [labelled(0)] * 20, max_items=2)
    many = sheet(images, [labelled(0)] * 20, [labelled(0)] * 20)
    assert few.size < many.size
    assert count(many, (19,) * 3)
    assert not count(few, (19,) * 3)


def test_objects_stand_beside_their_truth_under_a_legend_of_the_classes():
    image = np.full((200, 200, 3), 90, np.uint8)
    truth = boxes([20, 60, 90, 120], [110, 60, 180, 120], labels=[1, 2])
    prediction = boxes([20, 60, 90, 120], [110, 60, 180, 120], labels=[1, 3], scores=[0.9, 0.8])
    picture = sheet([image], [prediction], [truth])
    rows = np.flatnonzero((picture == 90).all(-1).sum(1) > 150)
    legend, panels = picture[:rows[0] - 40], picture[rows[0]:]
    for label in (1, 2, 3):
        assert count(legend, class_colour(label)) > 50
    left, right = np.array_split(panels, 2, axis=1)
    assert count(left, class_colour(1)) > 200
    assert count(left, class_colour(2)) > 200
    assert not count(left, class_colour(3))
    assert count(right, class_colour(3)) > 200
    assert not count(right, class_colour(2))
    assert count(picture, WRONG) > 500


def test_objects_below_the_threshold_are_neither_drawn_nor_in_a_frame_of_errors():
    image = np.full((200, 200, 3), 90, np.uint8)
    empty = boxes()
    unsure = boxes([20, 60, 90, 120], labels=[3], scores=[0.2])
    picture = sheet([image], [unsure], [empty])
    assert count(picture, RIGHT) > 500
    assert not count(picture, WRONG)


def test_a_semantic_map_has_its_wrong_pixels_in_a_third_panel():
    truth, guess = torch.zeros(120, 120).long(), torch.zeros(120, 120).long()
    truth[40:80, 40:80] = 1  # class 1 is missed: 1600 of 14400 pixels
    image = np.full((120, 120, 3), 90, np.uint8)
    picture = sheet([image], [DataSample(semantic_map=guess)], [DataSample(semantic_map=truth)],
                    classes=['ground', 'thing'], min_side=120)
    swatch = 40 * 40
    third = np.array_split(picture, 3, axis=1)
    assert count(third[2], hex_colour('missed')) >= swatch
    assert count(third[0], hex_colour('missed')) < swatch / 4
    assert count_words({'missed': 1600}, 'semantic', 14400) == '11.1% missed class'


def test_panoptic_segments_are_tinted_by_class_and_parted_by_white_lines():
    truth = torch.ones(120, 120).long()
    truth[:, 60:] = 2
    segments = [{'id': 1, 'label': 0}, {'id': 2, 'label': 1}]
    sample = DataSample(panoptic_map=truth, segments=segments)
    image = np.zeros((120, 120, 3), np.uint8)
    picture = sheet([image], [sample], [sample], min_side=120)
    for label in (0, 1):
        tint = np.round(np.array(class_colour(label)) * 0.45)
        assert count(picture, tint) >= 2 * 59 * 119
    assert count(picture, RIGHT) > 300


def test_counts_in_words():
    assert count_words({'class': 2, 'missed': 1}, 'detection') == '2 wrong class · 1 missed'
    assert count_words({}, 'detection') == 'no errors'


def test_nothing_to_compare_is_drawn_without_a_frame():
    image = np.full((8, 8, 3), 77, np.uint8)
    picture = prediction_sheet([image], [DataSample()], [DataSample()], [None])
    assert count(picture, (77,) * 3) > 1000
    assert not count(picture, RIGHT)
    assert not count(picture, WRONG)


def test_sequences_of_different_length_are_refused():
    with pytest.raises(ValueError, match='1 images, 0 predictions'):
        prediction_sheet([np.zeros((8, 8, 3), np.uint8)], [], [], [])
