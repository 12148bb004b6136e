import numpy as np
import pytest
import torch

from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import (
    RIGHT,
    WRONG,
    as_rgb,
    class_colour,
    draw_grid,
    draw_sample,
    format_share,
    label_caption,
    scale_for,
)

GREY = np.full((240, 320, 3), 128, np.uint8)


def has(picture, colour):
    return bool((picture == np.array(colour, np.uint8)).all(-1).any())


def objects(**kwargs):
    boxes = torch.tensor([[40.0, 60, 140, 160]])
    return DataSample(boxes=boxes, labels=torch.tensor([3]), **kwargs)


def test_a_box_has_the_colour_of_its_class_on_its_border_and_nowhere_inside():
    picture = draw_sample(GREY, objects())
    colour = class_colour(3)
    for x, y in ((40, 110), (139, 110), (90, 60), (90, 159)):
        assert tuple(picture[y, x]) == colour
    assert (picture[70:150, 50:130] == 128).all()
    assert (picture[200:] == 128).all()


def test_a_box_grows_with_a_small_image_and_stays_on_its_pixels():
    image = np.zeros((8, 8, 3), np.uint8)
    picture = draw_sample(image, DataSample(boxes=torch.tensor([[2.0, 2, 6, 6]])))
    assert picture.shape == (224, 224, 3)
    assert tuple(picture[2 * 28, 4 * 28]) == class_colour(0)
    assert (picture[3 * 28:5 * 28, 3 * 28:5 * 28] == 0).all()


def test_pixels_of_a_tiny_image_become_sharp_squares():
    image = np.zeros((8, 8, 3), np.uint8)
    image[2, 3] = 200
    picture = draw_sample(image, DataSample())
    assert (picture[56:84, 84:112] == 200).all()
    assert picture.sum() == 200 * 3 * 28 * 28


def test_objects_below_the_score_threshold_are_not_drawn():
    sample = objects(scores=torch.tensor([0.2]))
    assert (draw_sample(GREY, sample, score_threshold=0.3) == 128).all()
    assert not (draw_sample(GREY, sample, score_threshold=0.1) == 128).all()


def test_a_mask_tints_its_inside_only():
    mask = torch.zeros(1, 240, 320, dtype=torch.bool)
    mask[0, 100:150, 100:200] = True
    picture = draw_sample(GREY, DataSample(masks=mask, labels=torch.tensor([1])))
    expected = 128 * 0.55 + np.array(class_colour(1)) * 0.45
    assert np.abs(picture[125, 150] - expected).max() <= 1
    assert (picture[:99] == 128).all()


def test_a_semantic_map_is_tinted_by_class_with_a_legend_and_ignores_255():
    label = torch.full((240, 320), 255)
    label[:120] = 2
    picture = draw_sample(GREY, DataSample(semantic_map=label), ['a', 'b', 'sky'])
    expected = 128 * 0.45 + np.array(class_colour(2)) * 0.55
    assert np.abs(picture[60, 160] - expected).max() <= 1
    assert (picture[130:240] == 128).all()
    assert has(picture[240:], class_colour(2))
    assert not has(picture[240:], class_colour(0))


def test_only_visible_keypoints_are_dotted():
    points = torch.tensor([[[50.0, 60, 2], [200, 100, 0]]])
    picture = draw_sample(GREY, DataSample(keypoints=points))
    assert tuple(picture[60, 50]) == class_colour(0)
    assert (picture[90:110, 190:210] == 128).all()


def test_a_skeleton_joins_two_visible_points():
    points = torch.tensor([[[50.0, 60, 2], [200, 60, 2]]])
    picture = draw_sample(GREY, DataSample(keypoints=points), skeleton=[(0, 1)])
    assert np.abs(picture[60, 125] - np.array(class_colour(0))).max() < 40  # a smoothed edge


def test_a_caption_tells_right_and_wrong_apart():
    probs = torch.tensor([0.1, 0.9])
    right = DataSample(label=torch.tensor(1), label_probs=probs)
    assert label_caption(right, ['cat', 'dog'], right) == [('dog · 90%', RIGHT)]
    lines = label_caption(right, ['cat', 'dog'], DataSample(label=torch.tensor(0)))
    assert lines[0] == ('dog · 90%', WRONG)
    assert lines[1][0] == 'truth: cat'
    picture = draw_sample(GREY, right, ['cat', 'dog'], right)
    assert picture.shape[0] > 240
    assert has(picture[:-240], RIGHT)
    assert (picture[-240:] == 128).all()


def test_boxes_of_truth_and_prediction_stand_side_by_side():
    picture = draw_sample(GREY, objects(scores=torch.tensor([0.9])),
                          truth=DataSample(boxes=torch.tensor([[10.0, 10, 20, 20]]),
                                           labels=torch.tensor([5])))
    left, right = picture[:, :320], picture[:, -320:]
    assert has(left, class_colour(5))
    assert not has(left, class_colour(3))
    assert has(right, class_colour(3))


def test_a_sample_without_objects_is_drawn_as_the_bare_image():
    empty = DataSample(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long),
                       scores=torch.zeros(0), masks=torch.zeros(0, 240, 320, dtype=torch.bool))
    assert (draw_sample(GREY, empty) == 128).all()


def test_the_image_that_is_given_is_not_changed():
    image = GREY.copy()
    draw_sample(image, objects())
    assert (image == 128).all()


def test_a_tag_stays_inside_of_the_picture():
    sample = DataSample(boxes=torch.tensor([[300.0, 0, 330, 20]]), labels=torch.tensor([0]))
    picture = draw_sample(GREY, sample, ['a class with a long name'])
    assert picture.shape == GREY.shape
    assert has(picture[:, 100:250], class_colour(0))


def test_colours_of_classes_repeat_and_differ():
    colours = [class_colour(i) for i in range(200)]
    assert len(set(colours)) == 200
    assert colours[0] == (31, 119, 230)


@pytest.mark.parametrize('image', [
    torch.zeros(3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.uint8), np.zeros((4, 5)),
    np.zeros((4, 5, 4), np.uint8)])
def test_all_usual_images_become_rgb(image):
    assert as_rgb(image).shape == (4, 5, 3)
    assert as_rgb(image).dtype == np.uint8


def test_a_normalised_image_is_refused_with_a_hint():
    with pytest.raises(ValueError, match='before the preprocessor'):
        as_rgb(torch.tensor([[[-2.0, 2.0]]]))


def test_an_image_of_two_channels_is_refused():
    with pytest.raises(ValueError, match=r'\(4, 5, 2\)'):
        as_rgb(np.zeros((4, 5, 2)))


@pytest.mark.parametrize('value,text', [
    (1.0, '100%'), (0.9999, '>99.9%'), (0.996, '99.6%'), (0.42, '42%'), (0.0, '0%')])
def test_shares_say_100_percent_only_when_nothing_is_missing(value, text):
    assert format_share(value) == text


def test_enlarging_uses_the_smallest_factor_that_suffices():
    assert scale_for(np.zeros((8, 8, 3)), 224) == 28
    assert scale_for(np.zeros((480, 640, 3)), 224) == 1
    assert scale_for(np.zeros((100, 30, 3)), 224) == 8


def test_a_grid_places_pictures_in_rows_inside_their_frames():
    red, blue = (np.full((20, 30, 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))
    sheet = draw_grid([red, red, blue], 2, frames=[None, None, WRONG], pad=10)
    assert sheet.shape == (10 + 20 + 10 + 20 + 10, 10 + 40 + 40, 3)
    assert (sheet[10:30, 50:80] == (200, 0, 0)).all()
    assert (sheet[40:60, 10:40] == (0, 0, 200)).all()
    assert tuple(sheet[50, 8]) == WRONG
    assert (sheet[40:60, 45:] == 255).all()


def test_a_wide_grid_is_made_smaller():
    sheet = draw_grid([np.zeros((100, 1000, 3), np.uint8)] * 4, 4, max_width=1200)
    assert sheet.shape[1] <= 1250


def test_an_empty_grid_is_an_error():
    with pytest.raises(ValueError, match='at least one'):
        draw_grid([])
