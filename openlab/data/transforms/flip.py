"""Mirroring the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from openlab.data.transforms.base import Results, check_prob, draw_index
from openlab.data.transforms.geometry import GeometricTransform, Move, Role, apply_move
from openlab.registry import TRANSFORMS


@dataclass
class FlipMove(Move):
    """Mirror, by index."""

    code: int = 1

    def pixels(self, image: np.ndarray, role: Role) -> np.ndarray:
        """Mirror the array."""
        if image.dtype in (np.uint8, np.float32, np.uint16, np.int32):
            return cv2.flip(image, self.code)
        axis: int | tuple[int, int] = (0, 1) if self.code < 0 else 1 - self.code
        return np.ascontiguousarray(np.flip(image, axis))


@TRANSFORMS.register_module()
class RandomFlip(GeometricTransform):
    """Mirror the image.

    Args:
        prob: how often.
        direction: ``horizontal``, ``vertical`` or ``both``; a list draws one of them.
        keypoint_pairs: indices of keypoints that change places in a horizontal flip (left
            eye, right eye).
    """

    CODES: ClassVar[dict[str, int]] = {'horizontal': 1, 'vertical': 0, 'both': -1}

    def __init__(self, prob: float = 0.5, direction: str | Sequence[str] = 'horizontal',
                 keypoint_pairs: Sequence[Sequence[int]] = ()):
        self.prob = check_prob(prob)
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        for name in self.directions:
            if name not in self.CODES:
                raise ValueError(f'direction must be one of {", ".join(self.CODES)}, got {name!r}')
        self.keypoint_pairs = [tuple(p) for p in keypoint_pairs]

    def plan(self, results: Results) -> Move | None:
        """Draw whether and how to mirror."""
        results.setdefault('flip', False)
        if np.random.rand() >= self.prob:
            return None
        name = self.directions[draw_index(len(self.directions))]
        height, width = results['img'].shape[:2]
        x_sign, x_start = (1, 0) if name == 'vertical' else (-1, width)
        y_sign, y_start = (1, 0) if name == 'horizontal' else (-1, height)
        matrix = np.array([[x_sign, 0, x_start], [0, y_sign, y_start], [0, 0, 1]], np.float64)
        results['flip'] = True
        results['flip_direction'] = name
        return FlipMove(matrix, (height, width), code=self.CODES[name])

    def __call__(self, results: Results) -> Results | None:
        """Mirror, and let the paired keypoints change places."""
        move = self.plan(results)
        if move is None:
            return results
        results = apply_move(results, move)
        if results.get('keypoints') is not None and results['flip_direction'] != 'vertical':
            order = np.arange(results['keypoints'].shape[1])
            for a, b in self.keypoint_pairs:
                order[a], order[b] = b, a
            results['keypoints'] = results['keypoints'][:, order]
        return results
