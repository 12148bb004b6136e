"""Changing colours. The operations mean what Pillow's do, to within one step of 255.

f factor: 1 leaves the image as it is, 0 takes the quality away completely
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from openlab.data.transforms.base import Results, Transform, check_prob, draw_between
from openlab.registry import TRANSFORMS

_RAMP = np.arange(256, dtype=np.float32)
Range = float | Sequence[float]


def _table(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: f * image."""
    return cv2.LUT(image, _table(_RAMP * factor))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray of the image."""
    mean = int(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean() + 0.5)
    return cv2.LUT(image, _table(mean + factor * (_RAMP - mean)))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the gray image."""
    return cv2.addWeighted(image, factor, to_gray(image), 1 - factor, 0)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by ``shift`` of a full circle, from -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # wraps, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with a smoothed image; the outermost pixels stay."""
    if min(image.shape[:2]) <= 2:
        return image
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)


def to_gray(image: np.ndarray) -> np.ndarray:
    """Luma in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def invert(image: np.ndarray) -> np.ndarray:
    """255 - image."""
    return 255 - image


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper ``bits`` of each value."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert values from ``threshold`` up."""
    return np.where(image >= threshold, 255 - image, image)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to the full range."""
    flat = image.reshape(-1, image.shape[-1])
    low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
    tables = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, len(low)))
    for c in range(len(low)):
        if high[c] > low[c]:
            scale = 255 / (high[c] - low[c])
            tables[:, c] = _table(np.arange(256) * scale - low[c] * scale)
    return cv2.LUT(image, tables.reshape(256, 1, -1))


def equalize(image: np.ndarray) -> np.ndarray:
    """Make the histogram of each channel flat."""
    tables = [_equalize_table(np.bincount(image[..., c].ravel(), minlength=256))
              for c in range(image.shape[-1])]
    return cv2.LUT(image, np.stack(tables, axis=-1).reshape(256, 1, -1))


def _equalize_table(histogram: np.ndarray) -> np.ndarray:
    used = histogram[histogram > 0]
    step = int(used[:-1].sum()) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    before = np.concatenate([[0], np.cumsum(histogram)[:-1]])
    return _table((step // 2 + before) // step)


def gaussian_blur(image: np.ndarray, sigma: float, kernel_size: int = 0) -> np.ndarray:
    """Blur; a kernel size of 0 is chosen from sigma."""
    return cv2.GaussianBlur(image, (kernel_size, kernel_size), sigma,
                            borderType=cv2.BORDER_REFLECT_101)


def _factor_range(value: Range | None, name: str, center: float = 1.0,
                  bound: tuple[float, float] = (0.0, float('inf'))) -> tuple[float, float] | None:
    """A number r means from ``center - r`` to ``center + r``, cut to ``bound``."""
    if value is None or value == 0:
        return None
    if isinstance(value, (int, float)):
        low, high = max(center - value, bound[0]), center + value
    else:
        low, high = value
    if not bound[0] <= low <= high <= bound[1]:
        raise ValueError(f'{name} must be a number or (low, high) within {bound}, got {value!r}')
    return float(low), float(high)


@TRANSFORMS.register_module()
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue by random amounts in random order.

    Args:
        brightness: a range of factors, or r for 1 - r to 1 + r.
        contrast: likewise.
        saturation: likewise.
        hue: a range of shifts, or r for -r to r, within half a circle (0.5).
        prob: how often anything is done.
    """

    def __init__(self, brightness: Range | None = None, contrast: Range | None = None,
                 saturation: Range | None = None, hue: Range | None = None, prob: float = 1.0):
        self.ranges = {
            'brightness': _factor_range(brightness, 'brightness'),
            'contrast': _factor_range(contrast, 'contrast'),
            'saturation': _factor_range(saturation, 'saturation'),
            'hue': _factor_range(hue, 'hue', 0.0, (-0.5, 0.5)),
        }
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw order and amounts."""
        if np.random.rand() >= self.prob:
            return results
        functions = {'brightness': adjust_brightness, 'contrast': adjust_contrast,
                     'saturation': adjust_saturation, 'hue': adjust_hue}
        names = [name for name, span in self.ranges.items() if span is not None]
        for place in np.random.permutation(len(names)):
            span = self.ranges[names[place]]
            assert span is not None
            amount = draw_between(span)
            results['img'] = functions[names[place]](results['img'], amount)
        return results


@TRANSFORMS.register_module()
class RandomHSV(Transform):
    """Turn hue and scale saturation and value by random amounts, as YOLO training does.

    Args:
        hue: largest turn, as part of half a circle.
        saturation: largest change of the factor.
        value: largest change of the factor.
    """

    def __init__(self, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4):
        self.hue = hue
        self.saturation = saturation
        self.value = value

    def __call__(self, results: Results) -> Results:
        """Draw the amounts and apply them by tables."""
        turn, s, v = np.random.uniform(-1, 1, 3) * (self.hue, self.saturation, self.value) + 1
        channels = cv2.split(cv2.cvtColor(results['img'], cv2.COLOR_RGB2HSV))
        tables = ((_RAMP * turn) % 180, _RAMP * s, _RAMP * v)
        changed = cv2.merge([cv2.LUT(c, _table(t)) for c, t in zip(channels, tables)])
        results['img'] = cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)
        return results


@TRANSFORMS.register_module()
class RandomGrayscale(Transform):
    """Take the colours away.

    Args:
        prob: how often.
    """

    def __init__(self, prob: float = 0.1):
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether."""
        if np.random.rand() < self.prob:
            results['img'] = to_gray(results['img'])
        return results


@TRANSFORMS.register_module()
class GaussianBlur(Transform):
    """Blur.

    Args:
        sigma: range of the standard deviation in pixels.
        kernel_size: odd width of the kernel; 0 chooses it from sigma.
        prob: how often.
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), kernel_size: int = 0,
                 prob: float = 0.5):
        if kernel_size and kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd (or 0), got {kernel_size}')
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f'sigma must be 0 < low <= high, got {sigma}')
        self.sigma = tuple(sigma)
        self.kernel_size = kernel_size
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether, and how much."""
        if np.random.rand() < self.prob:
            sigma = draw_between(self.sigma)
            results['img'] = gaussian_blur(results['img'], sigma, self.kernel_size)
        return results


@TRANSFORMS.register_module()
class Solarize(Transform):
    """Invert bright pixels.

    Args:
        threshold: values from here up are inverted.
        prob: how often.
    """

    def __init__(self, threshold: float = 128, prob: float = 0.2):
        self.threshold = threshold
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether."""
        if np.random.rand() < self.prob:
            results['img'] = solarize(results['img'], self.threshold)
        return results


@TRANSFORMS.register_module()
class Posterize(Transform):
    """Keep only the upper bits of each value.

    Args:
        bits: how many, 1 to 8.
        prob: how often.
    """

    def __init__(self, bits: int = 4, prob: float = 0.5):
        if not 1 <= bits <= 8:
            raise ValueError(f'bits must be 1 to 8, got {bits}')
        self.bits = bits
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether."""
        if np.random.rand() < self.prob:
            results['img'] = posterize(results['img'], self.bits)
        return results


@TRANSFORMS.register_module()
class Equalize(Transform):
    """Flatten the histogram of each channel.

    Args:
        prob: how often.
    """

    def __init__(self, prob: float = 0.5):
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether."""
        if np.random.rand() < self.prob:
            results['img'] = equalize(results['img'])
        return results


@TRANSFORMS.register_module()
class AutoContrast(Transform):
    """Stretch each channel to the full range.

    Args:
        prob: how often.
    """

    def __init__(self, prob: float = 0.5):
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether."""
        if np.random.rand() < self.prob:
            results['img'] = auto_contrast(results['img'])
        return results


@TRANSFORMS.register_module()
class Invert(Transform):
    """Turn to the negative.

    Args:
        prob: how often.
    """

    def __init__(self, prob: float = 0.5):
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether."""
        if np.random.rand() < self.prob:
            results['img'] = invert(results['img'])
        return results


@TRANSFORMS.register_module()
class RandomSharpness(Transform):
    """Sharpen or smooth.

    Args:
        factor: range of factors, or r for 1 - r to 1 + r; 0 smooths, 2 sharpens.
        prob: how often.
    """

    def __init__(self, factor: Range = 0.9, prob: float = 0.5):
        self.factor = _factor_range(factor, 'factor') or (1.0, 1.0)
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw whether, and how much."""
        if np.random.rand() < self.prob:
            results['img'] = adjust_sharpness(results['img'], draw_between(self.factor))
        return results
