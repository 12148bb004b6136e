"""Augmentation policies: AutoAugment, RandAugment and TrivialAugment.

They share one set of operations and differ in how these are drawn. An operation has a strength
from 0 to 1 of its range; geometric ones move boxes, masks and keypoints along.

Papers: AutoAugment https://arxiv.org/abs/1805.09501, RandAugment
https://arxiv.org/abs/1909.13719, TrivialAugment https://arxiv.org/abs/2103.10158.
The ranges are those of torchvision, so that recipes carry over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from openlab.data.transforms import color
from openlab.data.transforms.affine import around, rotation, shearing
from openlab.data.transforms.base import Results, Transform, check_prob
from openlab.data.transforms.geometry import (
    IGNORE,
    Fill,
    Move,
    apply_move,
    as_fill,
    check_interpolation,
    translation,
)
from openlab.registry import TRANSFORMS

IMAGENET_POLICY = """
Posterize .4 8, Rotate .6 9;      Solarize .6 5, AutoContrast .6 -; Equalize .8 -, Equalize .6 -
Posterize .6 7, Posterize .6 6;   Equalize .4 -, Solarize .2 4;     Equalize .4 -, Rotate .8 8
Solarize .6 3, Equalize .6 -;     Posterize .8 5, Equalize 1 -;     Rotate .2 3, Solarize .6 8
Equalize .6 -, Posterize .4 6;    Rotate .8 8, Color .4 0;          Rotate .4 9, Equalize .6 -
Equalize 0 -, Equalize .8 -;      Invert .6 -, Equalize 1 -;        Color .6 4, Contrast 1 8
Rotate .8 8, Color 1 2;           Color .8 8, Solarize .8 7;        Sharpness .4 7, Invert .6 -
ShearX .6 5, Equalize 1 -;        Color .4 0, Equalize .6 -;        Equalize .4 -, Solarize .2 4
Solarize .6 5, AutoContrast .6 -; Invert .6 -, Equalize 1 -;        Color .6 4, Contrast 1 8
Equalize .8 -, Equalize .6 -
"""
CIFAR_POLICY = """
Invert .1 -, Contrast .2 6;       Rotate .7 2, TranslateX .3 9;     Sharpness .8 1, Sharpness .9 3
ShearY .5 8, TranslateY .7 9;     AutoContrast .5 -, Equalize .9 -; ShearY .2 7, Posterize .3 7
Color .4 3, Brightness .6 7;      Sharpness .3 9, Brightness .7 9;  Equalize .6 -, Equalize .5 -
Contrast .6 7, Sharpness .6 5;    Color .7 7, TranslateX .5 8;      Equalize .3 -, AutoContrast .4 -
TranslateY .4 3, Sharpness .2 6;  Brightness .9 6, Color .2 8;      Solarize .5 2, Invert 0 -
Equalize .2 -, AutoContrast .6 -; Equalize .2 -, Equalize .6 -;     Color .9 9, Equalize .6 -
AutoContrast .8 -, Solarize .2 8; Brightness .1 3, Color .7 0;      Solarize .4 5, AutoContrast .9 -
TranslateY .9 9, TranslateY .7 9; AutoContrast .9 -, Solarize .8 3; Equalize .8 -, Invert .1 -
TranslateY .7 9, AutoContrast .9 -
"""

Step = tuple[str, float, int | None]


def parse_policy(text: str) -> list[tuple[Step, ...]]:
    """Read sub-policies written as ``Name prob magnitude, Name prob -; ...``."""
    policies = []
    for entry in text.replace('\n', ';').split(';'):
        steps = [part.split() for part in entry.split(',') if part.strip()]
        if steps:
            policies.append(tuple(
                (name, float(prob), None if level == '-' else int(level))
                for name, prob, level in steps))
    return policies


SIGNED = ('ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Brightness', 'Color',
          'Contrast', 'Sharpness')
GEOMETRIC = SIGNED[:5]
BASIC = ('Identity', *SIGNED, 'Posterize', 'Solarize', 'AutoContrast', 'Equalize')

_COLOR: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    'Brightness': lambda image, m: color.adjust_brightness(image, 1 + m),
    'Color': lambda image, m: color.adjust_saturation(image, 1 + m),
    'Contrast': lambda image, m: color.adjust_contrast(image, 1 + m),
    'Sharpness': lambda image, m: color.adjust_sharpness(image, 1 + m),
    'Posterize': lambda image, m: color.posterize(image, int(m)),
    'Solarize': color.solarize,
    'AutoContrast': lambda image, m: color.auto_contrast(image),
    'Equalize': lambda image, m: color.equalize(image),
    'Invert': lambda image, m: color.invert(image),
}


def geometric_matrix(name: str, magnitude: float, height: int, width: int) -> np.ndarray:
    """Matrix of one operation: shears about the top left corner, turns about the middle."""
    if name == 'Rotate':
        return around(rotation(-magnitude), width / 2, height / 2)
    if name == 'ShearX':
        return shearing(math.degrees(math.atan(magnitude)), 0)
    if name == 'ShearY':
        return shearing(0, math.degrees(math.atan(magnitude)))
    return translation(magnitude, 0) if name == 'TranslateX' else translation(0, magnitude)


class _Policy(Transform):
    """What the policies share: ranges of the operations, and applying one of them."""

    shear = 0.3
    degrees = 30.0
    factor = 0.9
    lost_bits = 4

    def __init__(self, interpolation: str = 'bilinear', fill: Fill = 128,
                 map_fill: int = IGNORE):
        if check_interpolation(interpolation) == 'area':
            raise ValueError("interpolation='area' only works for resizing")
        self.interpolation = interpolation
        self.fill = as_fill(fill)
        self.map_fill = map_fill

    def magnitude(self, name: str, strength: float, height: int, width: int) -> float:
        """Value of an operation at a strength from 0 to 1; without its random sign."""
        if name in ('ShearX', 'ShearY'):
            return self.shear * strength
        if name in ('TranslateX', 'TranslateY'):
            return self.shift(width if name == 'TranslateX' else height) * strength
        if name == 'Rotate':
            return self.degrees * strength
        if name == 'Posterize':
            return 8 - round(self.lost_bits * strength)
        if name == 'Solarize':
            return 255 * (1 - strength)
        return self.factor * strength if name in SIGNED else 0.0

    def shift(self, length: int) -> float:
        """Largest translation along an edge."""
        return 150 / 331 * length

    def apply(self, results: Results, name: str, strength: float) -> Results:
        """Do one operation; signed ones go either way."""
        if name == 'Identity':
            return results
        height, width = results['img'].shape[:2]
        magnitude = self.magnitude(name, strength, height, width)
        if name in SIGNED and np.random.rand() < 0.5:
            magnitude = -magnitude
        return self.apply_magnitude(results, name, magnitude)

    def apply_magnitude(self, results: Results, name: str, magnitude: float) -> Results:
        """Do one operation of known magnitude."""
        if name in GEOMETRIC:
            height, width = results['img'].shape[:2]
            matrix = geometric_matrix(name, magnitude, height, width)
            return apply_move(results, Move(matrix, (height, width), self.interpolation,
                                            self.fill, self.map_fill))
        results['img'] = _COLOR[name](results['img'], magnitude)
        return results


@TRANSFORMS.register_module()
class RandAugment(_Policy):
    """A few operations, evenly drawn, all of one strength.

    Args:
        num_ops: how many.
        magnitude: strength, from 0 to ``num_levels`` - 1.
        num_levels: resolution of the strength. 31 is that of the paper and of torchvision; recipes
            that say "9/0.5" (timm, DeiT, Swin, ConvNeXt) count to 10: ``num_levels=11``.
        magnitude_std: standard deviation of the strength.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: colour where there was no image.
        map_fill: class index there, in semantic maps.
        prob: how often each of the operations is applied; those recipes have 0.5.
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 9, num_levels: int = 31,
                 magnitude_std: float = 0.0, interpolation: str = 'bilinear', fill: Fill = 128,
                 map_fill: int = IGNORE, prob: float = 1.0):
        super().__init__(interpolation, fill, map_fill)
        if not 0 <= magnitude < num_levels:
            raise ValueError(f'magnitude must be from 0 to num_levels - 1 = {num_levels - 1}, '
                             f'got {magnitude}')
        self.num_ops = num_ops
        self.magnitude_level = magnitude
        self.num_levels = num_levels
        self.magnitude_std = magnitude_std
        self.prob = check_prob(prob)

    def __call__(self, results: Results) -> Results:
        """Draw the operations."""
        for _ in range(self.num_ops):
            if self.prob < 1 and np.random.rand() >= self.prob:
                continue
            level = self.magnitude_level + np.random.randn() * self.magnitude_std
            strength = float(np.clip(level / (self.num_levels - 1), 0, 1))
            results = self.apply(results, BASIC[np.random.randint(len(BASIC))], strength)
        return results


@TRANSFORMS.register_module()
class TrivialAugmentWide(_Policy):
    """One operation of a random strength, from wide ranges.

    Args:
        num_levels: resolution of the strength.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: colour where there was no image.
        map_fill: class index there, in semantic maps.
    """

    shear = 0.99
    degrees = 135.0
    factor = 0.99
    lost_bits = 6

    def __init__(self, num_levels: int = 31, interpolation: str = 'bilinear', fill: Fill = 128,
                 map_fill: int = IGNORE):
        super().__init__(interpolation, fill, map_fill)
        self.num_levels = num_levels

    def shift(self, length: int) -> float:
        """Largest translation: 32 pixels, whatever the size."""
        return 32.0

    def __call__(self, results: Results) -> Results:
        """Draw the operation and its strength."""
        strength = np.random.randint(self.num_levels) / (self.num_levels - 1)
        return self.apply(results, BASIC[np.random.randint(len(BASIC))], strength)


@TRANSFORMS.register_module()
class AutoAugment(_Policy):
    """One of 25 learned pairs of operations.

    Args:
        policy: ``imagenet``, ``cifar``, or sub-policies of one's own: lists of
            ``(name, prob, level)`` with levels from 0 to 9, ``None`` where the operation has
            none.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: colour where there was no image.
        map_fill: class index there, in semantic maps.
    """

    def __init__(self, policy: Literal['imagenet', 'cifar'] | Sequence[Sequence[Step]] = 'imagenet',
                 interpolation: str = 'bilinear', fill: Fill = 128, map_fill: int = IGNORE):
        super().__init__(interpolation, fill, map_fill)
        if isinstance(policy, str):
            texts = {'imagenet': IMAGENET_POLICY, 'cifar': CIFAR_POLICY}
            if policy not in texts:
                raise ValueError(f"policy must be 'imagenet', 'cifar' or a list, got {policy!r}")
            self.policies = parse_policy(texts[policy])
        else:
            self.policies = [tuple((n, p, level) for n, p, level in sub) for sub in policy]
        for name in {step[0] for sub in self.policies for step in sub}:
            if name not in _COLOR and name not in GEOMETRIC:
                raise ValueError(f'no operation named {name!r}; there are '
                                 f'{", ".join((*GEOMETRIC, *_COLOR))}')

    def __call__(self, results: Results) -> Results:
        """Draw the pair, and whether each of it happens."""
        for name, prob, level in self.policies[np.random.randint(len(self.policies))]:
            if np.random.rand() < prob:
                results = self.apply(results, name, (level or 0) / 9)
        return results
