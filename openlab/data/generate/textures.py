"""Backgrounds that are never plain: noise, stripes, checks and gradients in two colours.

S size of the image in pixels
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np


def make_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random background, (S, S, 3) float32 from 0 to 255."""
    pattern = (_clouds, _stripes, _checks, _gradient)[rng.integers(4)](rng, size)
    low = rng.uniform(20, 235, 3)
    high = np.clip(low + rng.uniform(-70, 70, 3), 0, 255)
    grain = rng.standard_normal((size, size), dtype=np.float32) * rng.uniform(2, 9)
    planes = [(pattern * np.float32(b - a)).astype(np.float32) + (grain + np.float32(a))
              for a, b in zip(low, high)]
    return np.clip(cv2.merge(planes), 0, 255)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth noise of several sizes, from 0 to 1."""
    total = np.zeros((size, size), np.float32)
    for cells in (3, 7, 15, 31):
        noise = rng.random((cells, cells), dtype=np.float32)
        total += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) * (3 / cells)
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def _wave(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = _grid(size)
    angle, length = rng.uniform(0, np.pi), rng.uniform(0.06, 0.3)
    phase = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / length)
    return np.sin(phase + rng.uniform(0, 2 * np.pi))


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    return _wave(rng, size) / 2 + 0.5


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    return (np.sign(_wave(rng, size) * _wave(rng, size)) / 2 + 0.5).astype(np.float32)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    return (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) * 0.7 + 0.5


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(line, line)
    return x, y
