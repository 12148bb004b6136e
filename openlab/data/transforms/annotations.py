"""From the plain values of a record to the arrays that transforms move."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from openlab.data.errors import DataError
from openlab.data.maps import read_panoptic_map, read_semantic_map
from openlab.data.transforms.base import Results, Transform
from openlab.data.transforms.geometry import select_objects
from openlab.registry import TRANSFORMS
from openlab.structures.masks import polygons_to_mask, rle_to_mask


@TRANSFORMS.register_module()
class LoadAnnotations(Transform):
    """Turn what the record holds into arrays; comes after ``LoadImage``.

    Reads ``boxes`` (lists of four numbers), ``labels``, ``is_crowd``, ``segmentation`` (for each
    object polygons or run lengths), ``keypoints`` (for each object J times x, y, visibility) and
    ``seg_path`` (an image of class indices; ``map_format`` says how to read it) and
    ``panoptic_path`` with ``segments_info``, as far as the record has them. A panoptic image
    gives ``panoptic_map``, ``segments``, ``semantic_map``, and boxes, labels and masks of things.

    Args:
        box_format: how the file writes boxes: ``xyxy``, ``xywh`` or ``cxcywh``, in pixels.
        with_masks: make masks of ``segmentation``.
        with_map: read the semantic map; for panoptic images make one.
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
        if results.get('panoptic_path') is not None:
            self._read_panoptic(results, size)
        if results.get('boxes') is not None:
            results['boxes'] = self._boxes(results['boxes'])
        count = len(results['boxes']) if results.get('boxes') is not None else None
        for key, dtype in (('labels', np.int64), ('is_crowd', bool),
                           ('areas', np.float32), ('ann_ids', np.int64)):
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
            form = results.pop('map_format', {})
            results['semantic_map'] = self._map(results['seg_path'], size, form)
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

    def _map(self, path: str | Path, size: tuple[int, int],
             form: dict[str, Any]) -> np.ndarray:
        found = read_semantic_map(path, **form)
        if found.shape != size:
            raise DataError(f'the semantic map {path} is {found.shape} but its image is {size}')
        if not self.map_offset:
            return found
        shifted = found.astype(np.int64) + self.map_offset
        return np.where((shifted < 0) | (found == 255), 255, shifted)

    def _read_panoptic(self, results: Results, size: tuple[int, int]) -> None:
        path, listed = results['panoptic_path'], results.pop('segments_info')
        numbers = read_panoptic_map(path, listed)
        if numbers.shape != size:
            raise DataError(f'the panoptic map {path} is {numbers.shape} but its image is {size}')
        results['panoptic_map'] = numbers
        results['segments'] = [
            {'id': n, 'label': s['label'], 'is_thing': s['is_thing'], 'is_crowd': s['is_crowd']}
            for n, s in enumerate(listed, start=1)]
        if self.with_map:
            classes = np.array([255, *(s['label'] for s in listed)], dtype=np.uint8)
            results['semantic_map'] = classes[numbers]
        things = [n for n, s in enumerate(listed, start=1) if s['is_thing']]
        masks = numbers == np.array(things, dtype=numbers.dtype).reshape(-1, 1, 1)
        results['labels'] = np.array([listed[n - 1]['label'] for n in things], dtype=np.int64)
        results['is_crowd'] = np.array([listed[n - 1]['is_crowd'] for n in things], dtype=bool)
        results['areas'] = masks.sum(axis=(1, 2)).astype(np.float32)
        results['boxes'] = bounds_of(masks)
        if self.box_format != 'xyxy':
            raise DataError(f"panoptic images give boxes as 'xyxy'; LoadAnnotations has "
                            f'box_format={self.box_format!r}')
        if self.with_masks:
            results['masks'] = masks.view(np.uint8)

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


def bounds_of(masks: np.ndarray) -> np.ndarray:
    """Tightest boxes around masks (N, H, W), (N, 4) xyxy float32; zeros for empty masks."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


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
