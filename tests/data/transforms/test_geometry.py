"""Everything tied to the image follows it: draw marks, transform, find the marks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from openlab.data.transforms.affine import RandomAffine, RandomRotate, RandomShear
from openlab.data.transforms.base import Compose
from openlab.data.transforms.crop import (
    CenterCrop,
    CenterSquare,
    Crop,
    Pad,
    RandomCrop,
    RandomResizedCrop,
)
from openlab.data.transforms.flip import RandomFlip
from openlab.data.transforms.geometry import IGNORE, move_boxes, move_points
from openlab.data.transforms.policies import GEOMETRIC, RandAugment
from openlab.data.transforms.resize import RandomResize, Resize, resize_image

HEIGHT, WIDTH = 48, 64

EXACT = [
    Resize(96), Resize((24, 96)), Resize(shorter=72), Resize(longer=32),
    Resize((100, 100), keep_ratio=True), Resize(96, backend='pillow'),
    Resize((20, 30), backend='cv2'), Resize(80, interpolation='nearest'),
    RandomResize([30, 60]), RandomResize(ratio_range=(0.5, 2)),
    RandomResize([(40, 40), (80, 120)], mode='range'), RandomFlip(1.0),
    RandomFlip(1.0, 'vertical'), RandomFlip(1.0, 'both'), CenterCrop(40), CenterCrop((60, 30)),
    CenterSquare(0.7),
    Crop(5, 6, 30, 40), Crop(-4, -6, 70, 90), RandomCrop(32), RandomCrop(64, padding=8),
    RandomResizedCrop(32), RandomResizedCrop((20, 60), scale=(0.3, 0.6)), Pad(80),
    Pad(divisor=32), Pad(square=True, center=True),
]


@pytest.mark.parametrize('transform', EXACT, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize('seed', [0, 1])
def test_targets_follow_the_image_exactly(transform, seed, marked, assert_all_follow):
    np.random.seed(seed)
    assert_all_follow(transform(marked()))


TURNING = [RandomAffine(30, (0.1, 0.1), (0.7, 1.3), 15, 10), RandomRotate(45, prob=1.0),
           RandomShear(20, prob=1.0), RandomAffine(0, (0.3, 0.3))]


@pytest.mark.parametrize('transform', TURNING, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize('seed', range(3))
def test_targets_follow_turns_inside_their_boxes(transform, seed, marked, assert_all_follow):
    np.random.seed(seed)
    results = transform(marked())
    assert len(results['boxes'])
    assert_all_follow(results, slack=2.0, tight=False)


@pytest.mark.parametrize('name', GEOMETRIC)
def test_targets_follow_the_operations_of_policies(name, marked, assert_all_follow):
    np.random.seed(3)
    assert_all_follow(RandAugment(fill=0).apply(marked(), name, 0.4), slack=2.0, tight=False)


def test_a_chain_of_moves_is_one_matrix(marked):
    np.random.seed(5)
    chain = Compose([Resize(100), RandomFlip(1.0), RandomCrop(90), RandomRotate(20, prob=1.0),
                     Resize((50, 70))])
    results = chain(marked())
    moved = move_points(marked()['keypoints'][..., :2], results['matrix'])
    kept = [int(label == 3) for label in results['labels']]
    assert np.allclose(results['keypoints'][..., :2], moved[kept], atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_move_boxes_is_the_box_of_moved_corners(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(3)
    matrix[:2] = rng.normal(size=(2, 3))
    low = rng.random((3, 2)) * 10
    boxes = np.concatenate([low, low + rng.random((3, 2)) * 5], axis=1)
    for box, moved in zip(boxes, move_boxes(boxes, matrix)):
        x, y = np.meshgrid(box[[0, 2]], box[[1, 3]])
        corners = matrix[:2, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:2, 2:]
        assert np.allclose(moved, [*corners.min(1), *corners.max(1)], atol=1e-4)


def test_objects_that_leave_the_image_disappear_from_every_field(marked):
    results = Crop(0, 0, 21, 30)(marked())
    assert results['labels'].tolist() == [7] and results['is_crowd'].tolist() == [False]
    assert len(results['masks']) == len(results['keypoints']) == len(results['boxes']) == 1


def test_a_window_outside_the_image_shows_the_fill_and_ignored_pixels(marked):
    results = Crop(-2, 0, 4, 4, fill=(1, 2, 3))(marked())
    assert (results['img'][:2] == [1, 2, 3]).all()
    assert (results['semantic_map'][:2] == IGNORE).all()
    assert (results['semantic_map'][2:] == 0).all()


def test_an_image_without_objects_stays_well_formed(marked):
    results = marked()
    for key in ('boxes', 'labels', 'is_crowd', 'masks', 'keypoints'):
        results[key] = results[key][:0]
    for transform in (*EXACT, *TURNING):
        changed = transform({k: np.copy(v) for k, v in results.items()})
        assert changed['boxes'].shape == (0, 4)
        assert changed['masks'].shape == (0, *changed['img_shape'])


def test_a_horizontal_flip_lets_paired_keypoints_change_places():
    points = np.array([[[1, 5, 2], [9, 5, 2], [4, 4, 1]]], np.float32)
    results = RandomFlip(1.0, keypoint_pairs=[(0, 1)])(
        {'img': np.zeros((10, 20, 3), np.uint8), 'keypoints': points})
    assert results['keypoints'].tolist() == [[[11, 5, 2], [19, 5, 2], [16, 4, 1]]]
    assert results['flip'] is True and results['flip_direction'] == 'horizontal'
    vertical = RandomFlip(1.0, 'vertical', keypoint_pairs=[(0, 1)])(
        {'img': np.zeros((10, 20, 3), np.uint8), 'keypoints': points})
    assert vertical['keypoints'][0, 0].tolist() == [1, 5, 2]


def test_a_keypoint_outside_becomes_invisible():
    results = Crop(0, 0, 20, 20)({'img': np.zeros((40, 40, 3), np.uint8),
                                  'keypoints': np.array([[[10, 10, 2], [30, 5, 2]]], np.float32)})
    assert results['keypoints'][0, :, 2].tolist() == [2, 0]


def test_random_crop_asks_for_another_item_when_no_object_is_left():
    results = {'img': np.zeros((100, 100, 3), np.uint8),
               'boxes': np.array([[0, 0, 2, 2]], np.float32), 'labels': np.array([0])}
    np.random.seed(0)
    assert RandomCrop(10, allow_empty=False)(results) is None


def test_random_crop_avoids_windows_of_one_class():
    semantic = np.zeros((20, 40), np.int64)
    semantic[:, 30:] = 1
    crop = RandomCrop((20, 20), max_category_ratio=0.9)
    np.random.seed(0)
    for _ in range(5):
        results = crop({'img': np.zeros((20, 40, 3), np.uint8), 'semantic_map': semantic.copy()})
        assert len(np.unique(results['semantic_map'])) == 2


def test_large_segment_ids_survive_every_move():
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[10:30, 10:30] = 3_000_001
    for transform in (Resize(31), RandomFlip(1.0), Crop(1, 1, 30, 30), RandomRotate(30, prob=1.0)):
        moved = transform({'img': np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                           'panoptic_map': ids.copy()})['panoptic_map']
        assert moved.dtype == np.int64 and set(np.unique(moved)) == {0, 3_000_001}


@pytest.mark.parametrize('arguments, size', [
    ({'size': 30}, (30, 30)), ({'size': (20, 30)}, (20, 30)),
    ({'size': (30, 30), 'keep_ratio': True}, (15, 30)), ({'shorter': 10}, (10, 20)),
    ({'longer': 10}, (5, 10)), ({'shorter': 40, 'longer': 60}, (30, 60)),
])
def test_resize_finds_the_size_by_hand(arguments, size):
    results = Resize(**arguments)({'img': np.zeros((50, 100, 3), np.uint8)})
    assert results['img_shape'] == size
    assert results['scale_factor'] == (size[1] / 100, size[0] / 50)


@pytest.mark.parametrize('arguments, message', [
    ({}, 'either size or shorter/longer'), ({'size': 0}, 'positive whole number'),
    ({'size': 8, 'interpolation': 'cubic'}, 'one of nearest, bilinear, bicubic'),
    ({'size': 8, 'backend': 'gpu'}, 'one of torch, cv2, pillow'),
    ({'size': 8, 'backend': 'pillow', 'antialias': False}, 'always smooths'),
])
def test_wrong_arguments_of_resize_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        Resize(**arguments)


def smooth_image(height=60, width=80):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9) + np.cos(y / 7), np.cos(x / 5 + y / 11), np.sin((x + y) / 13)]
    return np.uint8(np.stack(waves, -1) * 60 + 125)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [(30, 40), (23, 57), (100, 120)])
@pytest.mark.parametrize('backend', ['torch', 'pillow'])
def test_resizing_equals_torchvision_to_one_step(interpolation, size, backend):
    image = smooth_image()
    ours = resize_image(image, size, interpolation, backend=backend)
    assert ours.flags.c_contiguous and ours.shape == (*size, 3)
    theirs = F.resize(torch.from_numpy(image).permute(2, 0, 1), list(size),
                      getattr(F.InterpolationMode, interpolation.upper()), antialias=True)
    difference = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy())
    assert difference.max() <= 1


def test_opencv_resizing_stays_near_torchvision():
    image = smooth_image()
    for size in ((30, 40), (23, 57), (100, 120)):
        ours = resize_image(image, size, backend='cv2')
        theirs = F.resize(torch.from_numpy(image).permute(2, 0, 1), list(size), antialias=True)
        difference = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy())
        assert difference.mean() < 1.5 and difference.max() <= 10


@pytest.mark.parametrize('antialias', [True, False])
@pytest.mark.parametrize('backend', ['torch', 'cv2'])
@pytest.mark.parametrize('resize', [
    Resize(shorter=33), Resize((24, 90)), Resize(shorter=61), Resize((40, 50)),
    RandomResize(ratio_range=(0.4, 1.7)), Resize(shorter=12),
])
def test_a_resize_and_a_crop_are_joined_without_a_change(resize, backend, antialias):
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    resize.antialias, resize.backend = antialias, backend
    for crop in (CenterCrop(24), RandomCrop((20, 30)), RandomCrop(22, padding=3)):
        together = Compose([resize, crop])
        for seed in range(12):
            np.random.seed(seed)
            found = together({'img': image})
            np.random.seed(seed)
            expected = crop(resize({'img': image}))
            assert np.array_equal(found.pop('img'), expected.pop('img'))
            assert np.allclose(found.pop('matrix'), expected.pop('matrix'))
            assert found == expected
    assert len(together._steps) == 1


def test_only_plain_images_are_resized_in_part():
    steps = Compose([Resize(shorter=30), CenterCrop(16)])
    image = smooth_image()
    found = steps({'img': image, 'semantic_map': image[..., 0],
                   'boxes': np.array([[20, 20, 60, 50]], np.float32)})
    expected = CenterCrop(16)(Resize(shorter=30)({'img': image, 'semantic_map': image[..., 0]}))
    assert np.array_equal(found['semantic_map'], expected['semantic_map'])
    assert np.array_equal(found['img'], expected['img']) and found['boxes'].max() <= 16
    steps.transforms.pop()
    assert steps({'img': image})['img'].shape == (30, 40, 3), 'edited lists count'


@pytest.mark.parametrize('size', [(300, 451), (451, 300), (427, 640), (99, 99)])
def test_the_shorter_edge_sets_the_size_that_torchvision_gives(size):
    expected = F.resize(torch.zeros(3, *size), [256]).shape[1:]
    assert Resize(shorter=256).new_size(*size) == tuple(expected)


def test_center_crop_takes_torchvisions_window():
    image = smooth_image(61, 80)
    for size in ((30, 41), (31, 40), (70, 50)):
        ours = CenterCrop(size)({'img': image.copy()})['img']
        theirs = F.center_crop(torch.from_numpy(image).permute(2, 0, 1), list(size))
        assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_random_resized_crop_covers_the_ranges_asked_for():
    np.random.seed(0)
    crop = RandomResizedCrop(8, scale=(0.2, 0.5), ratio=(0.5, 2))
    windows = [crop.draw_window(100, 120) for _ in range(300)]
    shares = np.array([h * w / 12000 for _, _, h, w in windows])
    ratios = np.array([w / h for _, _, h, w in windows])
    assert 0.19 < shares.min() < 0.25 and 0.45 < shares.max() < 0.51
    assert 0.48 < ratios.min() < 0.6 and 1.7 < ratios.max() < 2.1
    assert all(t >= 0 and t + h <= 100 and left >= 0 and left + w <= 120
               for t, left, h, w in windows)
    assert RandomResizedCrop(8, scale=(4, 5)).draw_window(10, 100) == (0, 43, 10, 13)


def test_a_center_square_is_a_share_of_the_shorter_edge():
    image = np.arange(100 * 60 * 3, dtype=np.uint8).reshape(100, 60, 3)
    # 0.875 of 60 is 52.5: rows from (100 - 52.5) / 2 = 23.75, columns from 3.75
    found = CenterSquare(224 / 256)({'img': image.copy()})['img']
    np.testing.assert_array_equal(found, image[24:76, 4:56])
    np.testing.assert_array_equal(CenterSquare()({'img': image.copy()})['img'], image[20:80])


@pytest.mark.parametrize('share', [0, 1.5])
def test_a_center_square_is_no_larger_than_the_image(share):
    with pytest.raises(ValueError, match='between 0 and 1'):
        CenterSquare(share)
