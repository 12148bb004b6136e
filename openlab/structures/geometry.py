"""The way back from the network's input to the original image.

``meta['matrix']`` (3, 3) collects what the pipeline did: original coordinates to current ones.
Coordinates are continuous: x runs from 0 to W, pixel i has its centre at i + 0.5.

N objects · H, W size of the original image · h, w size of the network's input
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlab.structures.boxes import clip_boxes
from openlab.structures.data_sample import DataSample

IGNORE = 255


def to_original(sample: DataSample, clip: bool = True) -> DataSample:
    """Bring boxes, masks, keypoints and maps of a sample back to the original image.

    Masks and maps take the nearest pixel; where the input does not show the original image
    (a crop), masks are empty, semantic maps 255 and panoptic maps 0. Objects are never dropped,
    so that numbers of objects stay those of the prediction.

    Args:
        sample: in pixels of the network's input; ``meta`` tells ``ori_shape`` (H, W) and
            ``matrix`` (3, 3), where anything moved the image.
        clip: cut boxes at the borders of the original image.

    Returns:
        A new sample, whose ``meta`` says that nothing has moved.

    Raises:
        ValueError: if ``meta`` does not tell ``ori_shape``, or the matrix cannot be inverted.
    """
    meta = sample.meta
    if meta.get('ori_shape') is None:
        raise ValueError(f"to_original needs meta['ori_shape'] (height, width); the sample "
                         f'{meta.get("img_path", meta.get("img_id", ""))} has meta keys '
                         f'{sorted(meta)}')
    size = int(meta['ori_shape'][0]), int(meta['ori_shape'][1])
    matrix = matrix_of(meta)
    try:
        back = np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        raise ValueError(f"meta['matrix'] cannot be inverted: {matrix.tolist()}") from None
    changed: dict[str, Any] = {}
    if sample.boxes is not None:
        boxes = move_boxes(sample.boxes, back)
        changed['boxes'] = clip_boxes(boxes, size) if clip else boxes
    if sample.keypoints is not None:
        points = move_points(sample.keypoints[..., :2], back)
        changed['keypoints'] = torch.cat([points, sample.keypoints[..., 2:]], dim=-1)
    for name, fill in (('masks', 0), ('semantic_map', IGNORE), ('panoptic_map', 0)):
        value = getattr(sample, name)
        if value is not None:
            changed[name] = move_pixels(value, matrix, size, fill)
    still = {'img_shape': size, 'matrix': np.eye(3), 'scale_factor': (1.0, 1.0), 'flip': False}
    kept = {k: v for k, v in meta.items() if k not in ('flip_direction', 'pad_shape')}
    return replace(sample, **changed, meta={**kept, **still})


def matrix_of(meta: dict[str, Any]) -> np.ndarray:
    """The matrix of a sample's ``meta``, (3, 3) float64; that of no move if there is none."""
    matrix = meta.get('matrix')
    if matrix is None:
        return np.eye(3)
    if isinstance(matrix, Tensor):
        matrix = matrix.detach().cpu().numpy()
    found = np.asarray(matrix, dtype=np.float64)
    if found.shape != (3, 3) or not np.isfinite(found).all():
        raise ValueError(f"meta['matrix'] must be (3, 3) finite numbers, got {matrix!r}")
    return found


def move_points(points: Tensor, matrix: np.ndarray) -> Tensor:
    """Apply a matrix to points, (..., 2)."""
    m = torch.as_tensor(matrix, dtype=torch.float64, device=points.device).to(points.dtype)
    moved = points @ m[:, :2].T + m[:, 2]
    return moved[..., :2] / moved[..., 2:]


def move_boxes(boxes: Tensor, matrix: np.ndarray) -> Tensor:
    """Boxes around the moved corners, (N, 4) xyxy; exact unless the matrix rotates or shears."""
    corners = move_points(boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2)), matrix)
    return torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)


def move_pixels(values: Tensor, matrix: np.ndarray, size: tuple[int, int],
                fill: int | float | bool = 0) -> Tensor:
    """Look up, for each pixel of an image of ``size``, where the matrix says that it is now.

    Args:
        values: masks or maps of the current image, (..., h, w).
        matrix: coordinates of the result to those of ``values``.
        size: (H, W) of the result.
        fill: value of pixels that ``values`` does not show.

    Returns:
        (..., H, W) of the same type.
    """
    if tuple(values.shape[-2:]) == size and np.array_equal(matrix, np.eye(3)):
        return values
    scales_only = not matrix[0, 1] and not matrix[1, 0] and np.array_equal(matrix[2], (0, 0, 1))
    xs, ys = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    if scales_only:  # rows and columns move independently: no grid of the whole image
        return _take_lines(values, matrix[1, 1] * ys + matrix[1, 2],
                           matrix[0, 0] * xs + matrix[0, 2], fill)
    grid = np.stack([*np.meshgrid(xs, ys), np.ones(size)], axis=-1) @ matrix.T
    columns = _whole(grid[..., 0] / grid[..., 2], values)
    rows = _whole(grid[..., 1] / grid[..., 2], values)
    height, width = values.shape[-2:]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = values[..., rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return found.masked_fill(~inside, fill)


def _take_lines(values: Tensor, rows: np.ndarray, columns: np.ndarray, fill: float) -> Tensor:
    height, width = values.shape[-2:]
    row, column = _whole(rows, values), _whole(columns, values)
    found = values.index_select(-2, row.clamp(0, height - 1))
    found = found.index_select(-1, column.clamp(0, width - 1))
    outside_rows, outside_columns = (row < 0) | (row >= height), (column < 0) | (column >= width)
    if outside_rows.any() or outside_columns.any():
        found = found.masked_fill(outside_rows[:, None] | outside_columns, fill)
    return found


def _whole(places: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.floor(places).astype(np.int64)).to(like.device)
