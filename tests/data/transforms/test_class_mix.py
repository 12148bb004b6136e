import numpy as np
import pytest

from openlab.data.errors import DataError
from openlab.data.transforms.class_mix import ClassMix


def item(value, classes):
    """An 8 x 8 image of one colour whose columns have these classes."""
    return {'img': np.full((8, 8, 3), value, np.uint8),
            'semantic_map': np.repeat(np.array([classes], np.uint8), 8, axis=0)}


def mixed(**settings):
    results = item(10, [0] * 8)
    results['others'] = [item(200, [0, 0, 1, 1, 2, 2, 3, 255])]
    return ClassMix(**settings)(results)


@pytest.mark.parametrize(('share', 'count'), [(0.5, 2), (0.2, 1), (1.0, 3), (0.0, 0)])
def test_pixels_of_the_drawn_classes_come_over_with_their_labels(share, count):
    drawn = set()
    for seed in range(20):
        np.random.seed(seed)
        result = mixed(share=share, keep_out=[0])
        row = result['semantic_map'][0]
        present = set(row[row > 0].tolist())
        assert len(present) == count and 255 not in present
        expected = [c if c in present else 0 for c in (0, 0, 1, 1, 2, 2, 3, 255)]
        assert (result['semantic_map'] == expected).all()
        assert ((result['img'][..., 0] == 200) == (result['semantic_map'] > 0)).all()
        drawn.add(frozenset(present))
    assert len(drawn) == (3 if count in (1, 2) else 1)


def test_a_class_that_would_hide_another_one_is_left_out():
    # Class 1 would cover half of class 5, class 2 a quarter of it, class 3 nothing but ground.
    for seed in range(5):
        np.random.seed(seed)
        results = item(10, [5, 5, 5, 5, 0, 0, 0, 0])
        results['others'] = [item(200, [1, 1, 2, 0, 3, 3, 0, 0])]
        result = ClassMix(share=1.0, keep_out=[0], min_visible=0.6)(results)
        assert result['semantic_map'][0].tolist() == [5, 5, 2, 5, 3, 3, 0, 0]
        assert result['img'][0, :, 0].tolist() == [10, 10, 200, 10, 200, 200, 10, 10]


def test_classes_that_cover_too_much_only_together_are_pasted_one_by_one():
    found = set()
    for seed in range(20):
        np.random.seed(seed)
        results = item(10, [5, 5, 5, 5, 0, 0, 0, 0])
        results['others'] = [item(200, [1, 2, 0, 0, 0, 0, 0, 0])]
        result = ClassMix(share=1.0, keep_out=[0], min_visible=0.6)(results)
        found.add(tuple(result['semantic_map'][0, :2].tolist()))
    assert found == {(1, 5), (5, 2)}


def test_the_background_may_be_pasted_like_any_class():
    np.random.seed(0)
    result = mixed(share=1.0)
    assert (result['img'][:, :7] == 200).all() and (result['img'][:, 7] == 10).all()


def test_what_a_dataset_keeps_stays_as_it_was():
    np.random.seed(0)
    results, other = item(10, [0] * 8), item(200, [1] * 8)
    image, truth = results['img'], results['semantic_map']
    ClassMix(share=1.0)({**results, 'others': [other]})
    assert (image == 10).all() and (truth == 0).all()
    assert (other['img'] == 200).all() and (other['semantic_map'] == 1).all()


def test_an_image_of_another_size_is_fitted():
    np.random.seed(0)
    other = {'img': np.full((16, 16, 3), 200, np.uint8),
             'semantic_map': np.ones((16, 16), np.uint8)}
    result = ClassMix(share=1.0)({**item(10, [0] * 8), 'others': [other]})
    assert (result['img'] == 200).all() and (result['semantic_map'] == 1).all()


def test_nothing_is_done_where_no_other_was_drawn():
    results = ClassMix(prob=0.0)({**item(10, [0] * 8), 'others': []})
    assert ClassMix(prob=0.0).draw_count() == 0
    assert (results['img'] == 10).all()


@pytest.mark.parametrize(('change', 'message'), [
    ({'semantic_map': None}, 'ClassMix needs semantic maps'),
    ({'boxes': np.zeros((1, 4))}, 'for boxes and masks use CopyPaste'),
])
def test_what_it_cannot_mix_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        ClassMix()({**item(10, [0] * 8), 'others': [{**item(1, [1] * 8), **change}]})


def test_outside_of_a_dataset_of_several_images_it_says_what_it_needs():
    with pytest.raises(DataError, match='MultiImageDataset'):
        ClassMix()(item(10, [0] * 8))
