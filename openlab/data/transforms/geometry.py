"""Moving everything that is tied to the image by one 3 x 3 matrix.

Coordinates are continuous: x runs from 0 to W, pixel i covers [i, i + 1) and has its centre at
i + 0.5. Boxes and keypoints both use them, so a flip sends x to W - x for both.

N objects · J keypoints · H, W image height and width
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from openlab.data.transforms.base import Results, Transform

Role = Literal['image', 'mask', 'map']
Fill = int | tuple[int, int, int]
IGNORE = 255
PER_OBJECT = ('boxes', 'labels', 'is_crowd', 'masks', 'keypoints', 'scores', 'areas', 'ann_ids')
"""Results with one entry for each object."""
TIED_TO_IMAGE = ('boxes', 'masks', 'keypoints', 'semantic_map', 'panoptic_map')

INTERPOLATIONS = {
    'nearest': cv2.INTER_NEAREST_EXACT,
    'bilinear': cv2.INTER_LINEAR,
    'bicubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
    'lanczos': cv2.INTER_LANCZOS4,
}


def check_interpolation(name: str) -> str:
    """Return ``name`` if it names an interpolation.

    Raises:
        ValueError: if not.
    """
    if name not in INTERPOLATIONS:
        raise ValueError(f'interpolation must be one of {", ".join(INTERPOLATIONS)}, got {name!r}')
    return name


def check_size(size: Any, name: str = 'size') -> tuple[int, int]:
    """Return (H, W) from one number or two.

    Raises:
        ValueError: if they are not positive whole numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and v > 0 for v in pair):
        raise ValueError(f'{name} must be a positive whole number or (height, width), '
                         f'got {size!r}')
    return int(pair[0]), int(pair[1])


def as_fill(fill: int | Sequence[int]) -> Fill:
    """A colour as configs write it (one number, or three) in the form OpenCV takes.

    Raises:
        ValueError: if it has another length than three.
    """
    if isinstance(fill, int):
        return fill
    if len(fill) != 3:
        raise ValueError(f'fill must be one number or three, got {fill!r}')
    return int(fill[0]), int(fill[1]), int(fill[2])


def translation(x: float, y: float) -> np.ndarray:
    """Matrix that adds (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def scaling(x: float, y: float) -> np.ndarray:
    """Matrix that multiplies x and y."""
    return np.array([[x, 0, 0], [0, y, 0], [0, 0, 1]], dtype=np.float64)


def move_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a matrix to points, (..., 2)."""
    ones = np.ones((*points.shape[:-1], 1), dtype=np.float64)
    moved = np.concatenate([points.astype(np.float64), ones], axis=-1) @ matrix.T
    return (moved[..., :2] / moved[..., 2:]).astype(np.float32)


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes around the moved corners, (N, 4) xyxy; exact unless the matrix rotates or shears."""
    corners = move_points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], interpolation: str,
         fill: float | tuple[float, ...]) -> np.ndarray:
    """Resample an image so that content at p stands at matrix @ p.

    Args:
        image: (H, W) or (H, W, C).
        matrix: moves coordinates of the old image to those of the new one.
        size: (H, W) of the new image.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        fill: value where the old image has nothing.
    """
    # OpenCV puts pixel centres at whole numbers.
    indices = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    flag = cv2.INTER_NEAREST if interpolation == 'nearest' else INTERPOLATIONS[interpolation]
    value = fill if isinstance(fill, tuple) else (fill,) * 4
    height, width = size
    if np.allclose(indices[2], (0, 0, 1)):
        return cv2.warpAffine(image, indices[:2], (width, height), flags=flag,
                              borderMode=cv2.BORDER_CONSTANT, borderValue=value)
    return cv2.warpPerspective(image, indices, (width, height), flags=flag,
                               borderMode=cv2.BORDER_CONSTANT, borderValue=value)


@dataclass
class Move:
    """How one geometric transform moves one item.

    Attributes:
        matrix: old coordinates to new ones, (3, 3).
        size: (H, W) of the new image.
        interpolation: for the image; masks and maps always take the nearest pixel.
        fill: colour where the old image has nothing.
        map_fill: class index there.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    interpolation: str = 'bilinear'
    fill: Fill = 0
    map_fill: int = IGNORE

    def pixels(self, image: np.ndarray, role: Role) -> np.ndarray:
        """Move an array of pixels; by default by resampling it with the matrix."""
        if role == 'image':
            return warp(image, self.matrix, self.size, self.interpolation, self.fill)
        return warp(image, self.matrix, self.size, 'nearest',
                    self.map_fill if role == 'map' else 0)


class GeometricTransform(Transform):
    """Base of transforms that move things: a subclass only says how (``plan``).

    Image, semantic map, masks, boxes and keypoints are then moved by the same ``Move``. Boxes
    are clipped to the image; objects whose box or mask has left it are dropped together with
    all that belongs to them. Keypoints outside the image become invisible. ``results['matrix']``
    collects the way from the original image to the current one.
    """

    min_visible: float = 0.0
    """Objects that keep no more than this part of their box are dropped."""

    @abstractmethod
    def plan(self, results: Results) -> Move | None:
        """Decide (draw) how to move; ``None`` leaves everything as it is."""

    def __call__(self, results: Results) -> Results | None:
        """Plan, then move everything."""
        move = self.plan(results)
        return results if move is None else apply_move(results, move, self.min_visible)


def apply_move(results: Results, move: Move, min_visible: float = 0.0) -> Results:
    """Move everything in ``results`` that is tied to the image."""
    results['img'] = move.pixels(results['img'], 'image')
    results['img_shape'] = move.size
    before = results.get('matrix')
    results['matrix'] = move.matrix if before is None else move.matrix @ before
    for key in ('semantic_map', 'panoptic_map'):
        if results.get(key) is not None:
            # OpenCV has no 64-bit images; int32 holds every class and segment index.
            given = results[key]
            array = given if given.dtype in (np.uint8, np.uint16) else given.astype(np.int32)
            role: Role = 'map' if key == 'semantic_map' else 'mask'
            results[key] = _move_map(array, move, role).astype(given.dtype)
    if results.get('masks') is not None:
        masks = [move.pixels(m, 'mask') for m in results['masks'].astype(np.uint8, copy=False)]
        results['masks'] = np.stack(masks) if masks else np.zeros((0, *move.size), np.uint8)
    if results.get('keypoints') is not None:
        results['keypoints'] = _move_keypoints(results['keypoints'], move)
    if results.get('boxes') is not None:
        _move_and_filter_boxes(results, move, min_visible)
    return results


def _move_map(array: np.ndarray, move: Move, role: Role) -> np.ndarray:
    if array.dtype == np.int32 and np.abs(array).max(initial=0) < 1 << 24:
        # float32 is exact for such indices, and every OpenCV operation takes it.
        return np.rint(move.pixels(array.astype(np.float32), role)).astype(np.int32)
    return move.pixels(array, role)


def _move_keypoints(keypoints: np.ndarray, move: Move) -> np.ndarray:
    moved = keypoints.astype(np.float32, copy=True)
    moved[..., :2] = move_points(moved[..., :2], move.matrix)
    height, width = move.size
    x, y = moved[..., 0], moved[..., 1]
    outside = (x < 0) | (y < 0) | (x > width) | (y > height)
    moved[outside, 2] = 0
    return moved


def _move_and_filter_boxes(results: Results, move: Move, min_visible: float) -> None:
    moved = move_boxes(results['boxes'], move.matrix)
    height, width = move.size
    clipped = moved.clip(0, (width, height, width, height)).astype(np.float32)
    area = _area(clipped)
    keep = (area > 0) & (area > min_visible * _area(moved))
    if results.get('masks') is not None and len(results['masks']):
        keep &= results['masks'].any(axis=(1, 2))
    results['boxes'] = clipped
    select_objects(results, keep)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def select_objects(results: Results, keep: np.ndarray) -> None:
    """Keep some of the objects in every field that has one entry for each, in place."""
    if keep.all():
        return
    for key in PER_OBJECT:
        if results.get(key) is not None:
            results[key] = results[key][keep]
