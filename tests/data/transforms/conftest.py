"""Marked images: whatever moves them, the marks tell where everything should be."""

import numpy as np
import pytest

HEIGHT, WIDTH = 48, 64
# xyxy of two rectangles, painted red and green: they stay tellable apart after resampling
BOXES = np.array([[10, 8, 26, 20], [34, 22, 56, 42]], np.float32)


def make_marked():
    """Rectangles drawn into image, masks and map, boxes around them, keypoints at the centres."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    semantic = np.zeros((HEIGHT, WIDTH), np.int64)
    for i, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        image[y1:y2, x1:x2, i] = 255
        masks[i, y1:y2, x1:x2] = 1
        semantic[y1:y2, x1:x2] = i + 1
    centers = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    keypoints = np.concatenate([centers, np.full((2, 1), 2)], axis=1)[:, None].astype(np.float32)
    return {'img': image, 'masks': masks, 'semantic_map': semantic, 'boxes': BOXES.copy(),
            'labels': np.array([7, 3]), 'is_crowd': np.array([False, True]),
            'keypoints': keypoints, 'img_shape': (HEIGHT, WIDTH)}


def bounds(mask):
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def check_all_follow(results, slack=1.5, tight=True):
    """Compare each target with where its colour is found in the image."""
    assert results['img'].shape[:2] == results['img_shape']
    assert results['masks'].shape[1:] == results['semantic_map'].shape == results['img_shape']
    assert len({len(results[k]) for k in
                ('boxes', 'labels', 'is_crowd', 'masks', 'keypoints')}) == 1
    for n, label in enumerate(results['labels']):
        color = {7: 0, 3: 1}[int(label)]
        assert results['is_crowd'][n] == (label == 3)
        seen = results['img'][..., color] > 127
        mask = results['masks'][n] > 0
        differ = (seen != mask).sum()
        assert differ <= slack * 2 * (mask.shape[0] + mask.shape[1]) ** 0.5 + mask.sum() * 0.12
        in_map = results['semantic_map'] == color + 1
        assert np.array_equal(in_map, mask)
        if tight:
            assert np.abs(bounds(seen) - results['boxes'][n]).max() <= slack
        else:
            assert (bounds(seen)[:2] >= results['boxes'][n][:2] - slack).all()
            assert (bounds(seen)[2:] <= results['boxes'][n][2:] + slack).all()
        x, y, visible = results['keypoints'][n, 0]
        if visible:
            assert seen[min(int(y), len(seen) - 1), min(int(x), seen.shape[1] - 1)]
            whole = mask.sum() > 20 and not _touches_border(mask)
            if whole:
                ys, xs = np.nonzero(seen)
                assert abs(xs.mean() + 0.5 - x) <= slack and abs(ys.mean() + 0.5 - y) <= slack


def _touches_border(mask):
    return mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()


@pytest.fixture
def marked():
    return make_marked


@pytest.fixture
def assert_all_follow():
    return check_all_follow
