"""Rotation, translation, scale and shear by one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from openlab.data.transforms.base import Results, check_prob, draw_between
from openlab.data.transforms.geometry import (
    IGNORE,
    Fill,
    GeometricTransform,
    Move,
    as_fill,
    check_interpolation,
    scaling,
    translation,
)
from openlab.registry import TRANSFORMS

Range = float | Sequence[float]


def rotation(degrees: float) -> np.ndarray:
    """Matrix that turns clockwise as seen (y points down)."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def shearing(x_degrees: float, y_degrees: float) -> np.ndarray:
    """Matrix that slants: x moves by -tan(x_degrees) * y, then y likewise by x."""
    along_x = np.array([[1, -math.tan(math.radians(x_degrees)), 0], [0, 1, 0], [0, 0, 1.0]])
    along_y = np.array([[1, 0, 0], [-math.tan(math.radians(y_degrees)), 1, 0], [0, 0, 1.0]])
    return along_y @ along_x


def around(matrix: np.ndarray, x: float, y: float) -> np.ndarray:
    """The same motion with (x, y) as its fixed point."""
    return translation(x, y) @ matrix @ translation(-x, -y)


def _symmetric(value: Range, name: str) -> tuple[float, float]:
    if isinstance(value, (int, float)):
        return -abs(float(value)), abs(float(value))
    low, high = value
    if low > high:
        raise ValueError(f'{name} must be a number or (low, high), got {value!r}')
    return float(low), float(high)


@TRANSFORMS.register_module()
class RandomAffine(GeometricTransform):
    """Turn, shift, scale and slant the image about its middle.

    Args:
        degrees: range of the angle, clockwise; r means -r to r.
        translate: largest shift as part of width and height.
        scale: range of the scale factor.
        shear: range of the slant along x in degrees; r means -r to r.
        shear_y: likewise along y.
        prob: how often.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: colour where there was no image.
        map_fill: class index there, in semantic maps.
        min_visible: drop objects that keep no more than this part of their box.
    """

    def __init__(self, degrees: Range = 0.0, translate: Sequence[float] = (0.0, 0.0),
                 scale: Sequence[float] = (1.0, 1.0), shear: Range = 0.0, shear_y: Range = 0.0,
                 prob: float = 1.0, interpolation: str = 'bilinear', fill: Fill = 0,
                 map_fill: int = IGNORE, min_visible: float = 0.0):
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f'scale must be 0 < low <= high, got {scale}')
        if check_interpolation(interpolation) == 'area':
            raise ValueError("interpolation='area' only works for resizing")
        self.degrees = _symmetric(degrees, 'degrees')
        self.translate = tuple(check_prob(t, 'translate') for t in translate)
        self.scale = tuple(scale)
        self.shear = _symmetric(shear, 'shear')
        self.shear_y = _symmetric(shear_y, 'shear_y')
        self.prob = check_prob(prob)
        self.interpolation = interpolation
        self.fill = as_fill(fill)
        self.map_fill = map_fill
        self.min_visible = check_prob(min_visible, 'min_visible')

    def plan(self, results: Results) -> Move | None:
        """Draw the matrix."""
        if np.random.rand() >= self.prob:
            return None
        height, width = results['img'].shape[:2]
        turn = rotation(draw_between(self.degrees))
        slant = shearing(draw_between(self.shear), draw_between(self.shear_y))
        zoom = draw_between(self.scale)
        dx, dy = np.random.uniform(-1, 1, 2) * self.translate * np.array([width, height])
        matrix = translation(dx, dy) @ around(turn @ slant @ scaling(zoom, zoom),
                                              width / 2, height / 2)
        return Move(matrix, (height, width), self.interpolation, self.fill, self.map_fill)


@TRANSFORMS.register_module()
class RandomRotate(RandomAffine):
    """Turn the image about its middle.

    Args:
        degrees: range of the angle, clockwise; r means -r to r.
        prob: how often.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: colour where there was no image.
        map_fill: class index there, in semantic maps.
    """

    def __init__(self, degrees: Range = 10.0, prob: float = 0.5, interpolation: str = 'bilinear',
                 fill: Fill = 0, map_fill: int = IGNORE):
        super().__init__(degrees, prob=prob, interpolation=interpolation, fill=fill,
                         map_fill=map_fill)


@TRANSFORMS.register_module()
class RandomShear(RandomAffine):
    """Slant the image about its middle.

    Args:
        shear: range of the slant along x in degrees; r means -r to r.
        shear_y: likewise along y.
        prob: how often.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: colour where there was no image.
        map_fill: class index there, in semantic maps.
    """

    def __init__(self, shear: Range = 10.0, shear_y: Range = 0.0, prob: float = 0.5,
                 interpolation: str = 'bilinear', fill: Fill = 0, map_fill: int = IGNORE):
        super().__init__(shear=shear, shear_y=shear_y, prob=prob, interpolation=interpolation,
                         fill=fill, map_fill=map_fill)
