"""From the plain values of a record to the arrays that transforms move."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from openlab.data.errors import DataError
from openlab.data.transforms.base import Results, Transform
from openlab.data.transforms.geometry import select_objects
from openlab.data.transforms.loading import read_map
from openlab.registry import TRANSFORMS
from openlab.structures.masks import polygons_to_mask, rle_to_mask


@TRANSFORMS.register_module()
class LoadAnnotations(Transform):
    """Turn what the record holds into arrays; comes after ``LoadImage``.

    Reads ``boxes`` (lists of four numbers), ``labels``, ``is_crowd``, ``segmentation`` (for each
    object polygons or run lengths), ``keypoints`` (for each object J times x, y, visibility) and
    ``seg_path`` (an image of class indices), as far as the record has them.

    Args:
        box_format: how the file writes boxes: ``xyxy``, ``xywh`` or ``cxcywh``, in pixels.
        with_masks: make masks of ``segmentation``.
        with_map: read the semantic map.
        drop_invalid: drop boxes without area (after cutting at the borders); else they are an
            error.
        map_offset: added to the class indices of the map; -1 with 0 as "none" makes that 255.
    """

    def __init__(self, box_format: Literal['xyxy', 'xywh', 'cxcywh'] = 'xyxy',
                 with_masks: bool = True, with_map: bool = True, drop_invalid: bool = True,
                 map_offset: int = 0):
        if box_format not in ('xyxy', 'xywh', 'cxcywh'):
            raise ValueError(f"box_format must be 'xyxy', 'xywh' or 'cxcywh', got {box_format!r}")
        self.box_format = box_format
        self.with_masks = with_masks
        self.with_map = with_map
        self.drop_invalid = drop_invalid
        self.map_offset = map_offset

    def __call__(self, results: Results) -> Results:
        """Convert and check every field that is there."""
        size = results['img'].shape[:2]
        if results.get('boxes') is not None:
            results['boxes'] = self._boxes(results['boxes'])
        count = len(results['boxes']) if results.get('boxes') is not None else None
        for key, dtype in (('labels', np.int64), ('is_crowd', bool)):
            if results.get(key) is not None:
                results[key] = _per_object(key, np.asarray(results[key], dtype=dtype), count)
        if results.get('keypoints') is not None:
            results['keypoints'] = _per_object('keypoints', _keypoints(results['keypoints']),
                                               count)
        segmentation = results.pop('segmentation', None)
        if self.with_masks and segmentation is not None:
            masks = [_mask(s, size) for s in segmentation]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), np.uint8)
            results['masks'] = _per_object('segmentation', stacked, count)
        if self.with_map and results.get('seg_path') is not None:
            results['semantic_map'] = self._map(results['seg_path'], size)
        if count is not None:
            self._clip(results, size)
        return results

    def _boxes(self, value: Any) -> np.ndarray:
        boxes = np.asarray(value, dtype=np.float32)
        if boxes.size == 0:
            return np.zeros((0, 4), np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise DataError(f'boxes must be lists of four finite numbers, got {value!r}')
        if self.box_format == 'xywh':
            boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        if self.box_format == 'cxcywh':
            half = boxes[:, 2:] / 2
            boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
        return boxes

    def _map(self, path: str | Path, size: tuple[int, int]) -> np.ndarray:
        found = read_map(path)
        if found.shape != size:
            raise DataError(f'the semantic map {path} is {found.shape} but its image is {size}')
        if not self.map_offset:
            return found
        shifted = found.astype(np.int64) + self.map_offset
        return np.where((shifted < 0) | (found == 255), 255, shifted)

    def _clip(self, results: Results, size: tuple[int, int]) -> None:
        height, width = size
        boxes = results['boxes'].clip(0, (width, height, width, height)).astype(np.float32)
        valid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if not valid.all() and not self.drop_invalid:
            bad = int(np.flatnonzero(~valid)[0])
            raise DataError(f'box {bad} has no area inside the image of {width} x {height}: '
                            f'{results["boxes"][bad].tolist()} (xyxy)')
        results['boxes'] = boxes
        select_objects(results, valid)


def _per_object(name: str, array: np.ndarray, count: int | None) -> np.ndarray:
    if count is not None and len(array) != count:
        raise DataError(f'{count} boxes but {len(array)} {name}')
    return array


def _keypoints(value: Any) -> np.ndarray:
    points = np.asarray(value, dtype=np.float32)
    if points.ndim == 2 and points.shape[1] % 3 == 0:  # COCO's flat lists
        points = points.reshape(len(points), -1, 3)
    if points.ndim != 3 or points.shape[2] != 3:
        raise DataError(f'keypoints must be (objects, points, 3): x, y, visibility; '
                        f'got shape {points.shape}')
    return points


def _mask(value: Any, size: tuple[int, int]) -> np.ndarray:
    try:
        mask = rle_to_mask(value) if isinstance(value, dict) else polygons_to_mask(value, size)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'cannot make a mask: {error}') from error
    if mask.shape != size:
        raise DataError(f'a mask is {mask.shape} but its image is {size}')
    return mask
