"""Hiding parts of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from openlab.data.transforms.base import Results, Transform, check_prob, draw_between
from openlab.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomErasing(Transform):
    """Paint a random rectangle over.

    It works on the image before it is normalised: the colour of the mean becomes 0 then. Boxes
    and masks stay: the object is still there, behind the rectangle.
    Paper: Random erasing data augmentation, https://arxiv.org/abs/1708.04896.

    Args:
        prob: how often.
        area: range of the rectangle's area as part of the image's.
        ratio: range of height / width, drawn evenly on a log scale.
        mode: ``const`` paints ``fill``, ``noise`` another random colour in each pixel.
        fill: the colour; by default ImageNet's mean.
    """

    def __init__(self, prob: float = 0.25, area: Sequence[float] = (0.02, 1 / 3),
                 ratio: Sequence[float] = (0.3, 1 / 0.3),
                 mode: Literal['const', 'noise'] = 'const',
                 fill: int | Sequence[int] = (124, 116, 104)):
        if mode not in ('const', 'noise'):
            raise ValueError(f"mode must be 'const' or 'noise', got {mode!r}")
        if not 0 < area[0] <= area[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'area must be 0 < low <= high <= 1 and ratio 0 < low <= high, '
                             f'got {area} and {ratio}')
        self.prob = check_prob(prob)
        self.area = tuple(area)
        self.ratio = tuple(ratio)
        self.mode = mode
        self.fill = fill

    def __call__(self, results: Results) -> Results:
        """Draw the rectangle; nothing if none fits in ten tries."""
        if np.random.rand() >= self.prob:
            return results
        image = results['img']
        height, width = image.shape[:2]
        for _ in range(10):
            target = height * width * draw_between(self.area)
            ratio = math.exp(draw_between(np.log(self.ratio)))
            h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < h < height and 0 < w < width:
                top = np.random.randint(height - h + 1)
                left = np.random.randint(width - w + 1)
                image = image.copy()
                image[top:top + h, left:left + w] = self.fill if self.mode == 'const' else \
                    np.random.randint(0, 256, (h, w, image.shape[2]), dtype=np.uint8)
                results['img'] = image
                break
        return results
