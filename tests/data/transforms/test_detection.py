import numpy as np
import pytest

from openlab.data.transforms.detection import (
    LargeScaleJitter,
    MinIoURandomCrop,
    PhotometricDistortion,
)
from openlab.data.transforms.resize import RandomResize


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('transform', [
    MinIoURandomCrop(), LargeScaleJitter(64, (0.8, 2.0)), LargeScaleJitter((40, 72), (0.9, 1.1)),
    RandomResize(scales=[40, 64, 96]), RandomResize(scales=[(60, 90), (96, 128)], mode='range'),
])
def test_everything_follows_the_image(marked, assert_all_follow, transform, seed):
    np.random.seed(seed)
    results = transform(marked())
    assert_all_follow(results, slack=3)


def test_crops_meet_the_least_overlap_of_all_objects_they_hold(marked):
    transform = MinIoURandomCrop(min_ious=(0.2,), min_size=0.3)
    sizes = set()
    for seed in range(60):
        np.random.seed(seed)
        results = transform(marked())
        height, width = results['img_shape']
        sizes.add((height, width))
        assert len(results['boxes']) and 14 <= height <= 48 and 19 <= width <= 64
        if (height, width) != (48, 64):
            assert 0.5 <= height / width <= 2
    assert len(sizes) > 20 and (48, 64) in sizes  # sometimes there is no crop


def test_an_impossible_overlap_leaves_the_image_whole(marked):
    transform = MinIoURandomCrop(min_ious=(1.0,) * 50, num_tries=3)
    np.random.seed(0)
    results = transform(marked())
    assert results['img_shape'] == (48, 64) and len(results['boxes']) == 2
    with pytest.raises(ValueError, match='min_ious must be between 0 and 1'):
        MinIoURandomCrop(min_ious=(1.5,))


def test_crops_without_objects_are_allowed_where_there_are_none(marked):
    results = marked()
    for key in ('boxes', 'masks', 'keypoints', 'labels', 'is_crowd'):
        results[key] = results[key][:0]
    np.random.seed(1)
    cropped = MinIoURandomCrop(min_ious=(0.5,))(results)
    assert cropped['img'].shape[:2] != (48, 64) and len(cropped['boxes']) == 0


def test_large_scale_jitter_gives_one_size_and_pads_below_and_right(marked):
    np.random.seed(0)
    results = LargeScaleJitter(64, (0.5, 0.5), fill=7)(marked())
    assert results['img'].shape == (64, 64, 3) and results['masks'].shape[1:] == (64, 64)
    assert (results['img'][24:] == 7).all() and (results['img'][:, 32:] == 7).all()
    assert (results['semantic_map'][24:] == 255).all() and (results['semantic_map'][:24, :32]
                                                            != 255).all()
    np.random.seed(0)
    large = LargeScaleJitter(64, (2.0, 2.0))(marked())
    assert large['img'].shape == (64, 64, 3) and (large['semantic_map'] != 255).all()


def test_distortion_changes_colours_only_and_within_its_bounds(marked):
    results = marked()
    gray = np.full((8, 8, 3), 100, np.uint8)
    only_brightness = PhotometricDistortion(20, (1, 1), (1, 1), 0, prob=1.0)
    values = set()
    for seed in range(30):
        np.random.seed(seed)
        image = only_brightness({'img': gray})['img']
        assert len(np.unique(image)) == 1 and 80 <= image[0, 0, 0] <= 120
        values.add(int(image[0, 0, 0]))
    assert len(values) > 10 and (gray == 100).all()
    np.random.seed(0)
    off = PhotometricDistortion(prob=0.0)(results)
    assert np.array_equal(off['img'], marked()['img'])


def test_hue_turns_in_degrees_and_channels_swap(marked):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    seen = set()
    for seed in range(20):
        np.random.seed(seed)
        image = PhotometricDistortion(0, (1, 1), (1, 1), hue=60, prob=1.0)({'img': red})['img']
        assert image.max() == 200 and image.min() == 0  # only the hue moves
        seen.add(tuple(image[0, 0].tolist()))
    assert len(seen) > 5
    np.random.seed(3)
    swapped = PhotometricDistortion(0, (1, 1), (1, 1), 0, 0, swap_prob=1.0)({'img': red})['img']
    assert sorted(swapped[0, 0].tolist()) == [0, 0, 200]
    with pytest.raises(ValueError, match='contrast must be a range'):
        PhotometricDistortion(contrast=(2, 1))
