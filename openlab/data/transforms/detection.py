"""Augmentations that detectors made common; all carry boxes, masks, maps and keypoints.

N objects · H, W image height and width
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from openlab.data.transforms.base import Results, Transform, check_prob
from openlab.data.transforms.crop import WindowMove
from openlab.data.transforms.geometry import (
    IGNORE,
    Fill,
    apply_move,
    as_fill,
    check_size,
    select_objects,
    translation,
)
from openlab.data.transforms.resize import RandomResize
from openlab.registry import TRANSFORMS

_RAMP = np.arange(256, dtype=np.float32)


@TRANSFORMS.register_module()
class PhotometricDistortion(Transform):
    """Brightness, contrast, saturation and hue, each with its own probability.

    As in SSD, https://arxiv.org/abs/1512.02325: contrast comes before or after the colours,
    with even chances, and the three channels may change places.

    Args:
        brightness: largest change, on the scale of the image (0 to 255).
        contrast: range of factors.
        saturation: range of factors.
        hue: largest turn in degrees.
        prob: how often each of them is done.
        swap_prob: how often the channels change places.
    """

    def __init__(self, brightness: float = 32, contrast: Sequence[float] = (0.5, 1.5),
                 saturation: Sequence[float] = (0.5, 1.5), hue: float = 18, prob: float = 0.5,
                 swap_prob: float = 0.0):
        for name, span in (('contrast', contrast), ('saturation', saturation)):
            if len(span) != 2 or not 0 <= span[0] <= span[1]:
                raise ValueError(f'{name} must be a range 0 <= low <= high, got {span}')
        self.brightness = brightness
        self.contrast = (float(contrast[0]), float(contrast[1]))
        self.saturation = (float(saturation[0]), float(saturation[1]))
        self.hue = hue
        self.prob = check_prob(prob)
        self.swap_prob = check_prob(swap_prob, 'swap_prob')

    def __call__(self, results: Results) -> Results:
        """Draw all amounts, then change the image by tables."""
        def drawn(low: float, high: float, neutral: float) -> float:
            value = np.random.uniform(low, high)
            return value if np.random.rand() < self.prob else neutral

        shift = drawn(-self.brightness, self.brightness, 0)
        contrast, first = drawn(*self.contrast, 1), np.random.rand() < 0.5
        saturation, turn = drawn(*self.saturation, 1), drawn(-self.hue, self.hue, 0)
        table = (_RAMP + shift) * (contrast if first else 1)
        image = cv2.LUT(results['img'], _table(table))
        if saturation != 1 or turn:
            hue, strength, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
            # OpenCV keeps half degrees.
            hue = cv2.LUT(hue, ((_RAMP + turn / 2) % 180).astype(np.uint8))
            strength = cv2.LUT(strength, _table(_RAMP * saturation))
            image = cv2.cvtColor(cv2.merge([hue, strength, value]), cv2.COLOR_HSV2RGB)
        if not first and contrast != 1:
            image = cv2.LUT(image, _table(_RAMP * contrast))
        if np.random.rand() < self.swap_prob:
            image = np.ascontiguousarray(image[..., np.random.permutation(3)])
        results['img'] = image
        return results


def _table(values: np.ndarray) -> np.ndarray:
    return (values + 0.5).clip(0, 255).astype(np.uint8)


@TRANSFORMS.register_module()
class MinIoURandomCrop(Transform):
    """Cut out a window that every box left in it overlaps by a drawn least IoU.

    As in SSD, https://arxiv.org/abs/1512.02325: the least IoU is one of ``min_ious``, or there
    is no condition, or no crop at all, with even chances. Objects whose centre lies outside of
    the window go.

    Args:
        min_ious: least overlaps of the window with each object whose centre it holds.
        min_size: least height and width of the window, as parts of the image's.
        num_tries: windows to draw before the image is left as it is.
    """

    def __init__(self, min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
                 min_size: float = 0.3, num_tries: int = 50):
        if not all(0 <= v <= 1 for v in min_ious):
            raise ValueError(f'min_ious must be between 0 and 1, got {list(min_ious)}')
        if not 0 < min_size <= 1:
            raise ValueError(f'min_size must be in (0, 1], got {min_size}')
        self.min_ious = tuple(min_ious)
        self.min_size = min_size
        self.num_tries = num_tries

    def __call__(self, results: Results) -> Results:
        """Draw a condition, then a window that meets it."""
        choice = np.random.randint(len(self.min_ious) + 2)
        boxes = results.get('boxes')
        if choice == len(self.min_ious) + 1 or boxes is None:
            return results
        least = 0.0 if choice == len(self.min_ious) else self.min_ious[choice]
        height, width = results['img'].shape[:2]
        for _ in range(self.num_tries):
            h = int(np.random.uniform(self.min_size * height, height))
            w = int(np.random.uniform(self.min_size * width, width))
            if not h or not w or not 0.5 <= h / w <= 2:
                continue
            top, left = np.random.randint(height - h + 1), np.random.randint(width - w + 1)
            window = np.array([left, top, left + w, top + h], np.float32)
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((centers > window[:2]) & (centers < window[2:])).all(axis=1)
            if len(boxes) and (not inside.any() or _iou(boxes[inside], window).min() < least):
                continue
            select_objects(results, inside)
            return apply_move(results, WindowMove(translation(-left, -top), (h, w),
                                                  window=(top, left, h, w)))
        return results


def _iou(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    low, high = np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])
    overlap = (high - low).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return overlap / (areas + (window[2:] - window[:2]).prod() - overlap)


@TRANSFORMS.register_module()
class LargeScaleJitter(Transform):
    """Resize by a factor from a wide range, then cut or pad to one size.

    Paper: Simple Copy-Paste, https://arxiv.org/abs/2012.07177, section 3.

    Args:
        size: (H, W) of the result, or one number for both.
        ratio_range: factors of the largest size that fits into ``size``.
        fill: colour of the padding, which is below and to the right.
        map_fill: class index of the padding in semantic maps.
        min_visible: drop objects that keep no more than this part of their box.
    """

    def __init__(self, size: int | Sequence[int], ratio_range: Sequence[float] = (0.1, 2.0),
                 fill: Fill | Sequence[int] = 114, map_fill: int = IGNORE,
                 min_visible: float = 0.0):
        self.size = check_size(size)
        self.resize = RandomResize(ratio_range=ratio_range, base=self.size)
        self.fill = as_fill(fill)
        self.map_fill = map_fill
        self.min_visible = min_visible

    def __call__(self, results: Results) -> Results | None:
        """Resize, then take a window that the image fills as far as it can."""
        resized = self.resize(results)
        assert resized is not None
        height, width = resized['img'].shape[:2]
        top = np.random.randint(max(0, height - self.size[0]) + 1)
        left = np.random.randint(max(0, width - self.size[1]) + 1)
        move = WindowMove(translation(-left, -top), self.size, fill=self.fill,
                          map_fill=self.map_fill, window=(top, left, *self.size))
        return apply_move(resized, move, self.min_visible)
