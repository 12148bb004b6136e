"""What all datasets of boxes share: objects of all images end to end, checked and cut up again.

M objects in all images · N objects in one image
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlab.data.datasets.base import Annotations, BaseDataset
from openlab.data.errors import Dropped
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.structures.data_sample import DataSample


@dataclass
class Objects:
    """All objects of a set, as the files give them.

    Attributes:
        image: which image each one belongs to, (M,) int64.
        boxes: xyxy in pixels, (M, 4) float64.
        labels: class index, (M,) int64.
        sources: says where the i-th one stands in the files.
        is_crowd: (M,) bool; none by default.
        areas: (M,) in pixels; those of the boxes by default.
        ids: (M,) int64; counted from 1 by default.
        segmentation: polygons or run lengths of each, or none at all.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    sources: Callable[[int], str]
    is_crowd: np.ndarray | None = None
    areas: np.ndarray | None = None
    ids: np.ndarray | None = None
    segmentation: Sequence[Any] | None = None


@dataclass
class Images:
    """All images of a set: paths relative to ``data_root``, ids, and sizes."""

    paths: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, path: str, image_id: int, size: tuple[int, int]) -> None:
        """Note one more image with its (H, W)."""
        self.paths.append(path)
        self.ids.append(image_id)
        self.sizes.append(size)


class DetectionDataset(BaseDataset):
    """Base of datasets with boxes.

    Records hold ``img_path``, ``img_id``, ``height``, ``width`` and for the N objects ``boxes``
    (N, 4) xyxy in pixels, ``labels``, ``is_crowd``, ``areas``, ``ann_ids`` and perhaps
    ``segmentation``. Boxes that cannot be learnt from are left out and told in ``dropped``;
    what reaches over the border is cut there.

    Args:
        data_root: folder that all paths are relative to.
        pipeline: transforms, applied in order to each item.
        classes: names, to fix their order or take a subset; objects of others are left out.
        keep_empty: keep images without objects.
        min_size: boxes with a shorter side, in pixels, are dropped.
        make: called with ``data_root`` before anything is read; makes the data if they are not
            there yet.
    """

    def __init__(self, data_root: str | Path = '', pipeline: Sequence[Transform] = (),
                 classes: Sequence[str] | None = None, keep_empty: bool = True,
                 min_size: float = 1.0, make: Callable[[Path], Any] | None = None):
        super().__init__(data_root, pipeline, classes, make)
        self.keep_empty = keep_empty
        self.min_size = min_size

    def assemble(self, images: Images, objects: Objects, classes: Sequence[str],
                 dropped: list[Dropped], **metainfo: Any) -> Annotations:
        """Check all objects and sort them to their images."""
        sizes = np.array(images.sizes, dtype=np.int64).reshape(-1, 2)
        boxes, keep = self._checked_boxes(objects, images, sizes, dropped)
        order = np.flatnonzero(keep)
        order = order[np.argsort(objects.image[order], kind='stable')]
        counts = np.bincount(objects.image[order], minlength=len(sizes))
        chosen = np.arange(len(sizes))
        if not self.keep_empty:
            chosen = np.flatnonzero(counts)
            dropped += [Dropped(images.paths[i], 'image has no objects')
                        for i in np.flatnonzero(counts == 0)]
        areas = objects.areas
        if areas is None:
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        crowd = objects.is_crowd
        ids = objects.ids
        per_object: dict[str, np.ndarray] = {
            'boxes': boxes.astype(np.float32), 'labels': objects.labels.astype(np.int64),
            'is_crowd': np.zeros(len(boxes), bool) if crowd is None else crowd.astype(bool),
            'areas': areas.astype(np.float32),
            'ann_ids': np.arange(1, len(boxes) + 1) if ids is None else ids.astype(np.int64)}
        ends = np.cumsum(counts)[:-1]
        columns: dict[str, Any] = {
            'img_path': [images.paths[i] for i in chosen],
            'img_id': np.array(images.ids, dtype=np.int64)[chosen],
            'height': sizes[chosen, 0], 'width': sizes[chosen, 1]}
        for name, values in per_object.items():
            pieces = np.split(values[order], ends)
            columns[name] = [pieces[i] for i in chosen]
        if objects.segmentation is not None:
            places = np.split(order, ends)
            columns['segmentation'] = [[objects.segmentation[j] for j in places[i]]
                                       for i in chosen]
        return Annotations(RecordTable(columns), tuple(classes), dropped, metainfo)

    def _checked_boxes(self, objects: Objects, images: Images, sizes: np.ndarray,
                       dropped: list[Dropped]) -> tuple[np.ndarray, np.ndarray]:
        """Boxes cut at the borders of their images, and which of them can be used."""
        boxes = objects.boxes.astype(np.float64).reshape(-1, 4)
        limits = sizes[objects.image][:, [1, 0, 1, 0]] if len(boxes) else boxes
        cut = np.clip(boxes, 0, limits)
        with np.errstate(invalid='ignore'):
            outside = ((cut[:, 2:] <= cut[:, :2]) & (boxes[:, 2:] > boxes[:, :2])).any(axis=1)
            tests = (
                (~np.isfinite(boxes).all(axis=1), 'box is not four finite numbers'),
                ((boxes[:, 2:] <= boxes[:, :2]).any(axis=1), 'box has no area'),
                (outside, 'box lies outside of its image'),
                ((cut[:, 2:] - cut[:, :2]).min(axis=1, initial=np.inf) < self.min_size,
                 f'box is smaller than min_size={self.min_size:g} pixels'),
            )
        keep = np.ones(len(boxes), dtype=bool)
        for is_bad, reason in tests:
            for i in np.flatnonzero(keep & is_bad):
                place = objects.image[i]
                height, width = sizes[place]
                corners = ', '.join(f'{v:g}' for v in boxes[i])
                dropped.append(Dropped(
                    f'{objects.sources(int(i))}, image {images.paths[place]} of {width} x '
                    f'{height}, box [{corners}] (xyxy)', reason))
            keep &= ~is_bad
        if objects.segmentation is not None:
            for j in np.flatnonzero(keep).tolist():
                problem = mask_problem(objects.segmentation[j], sizes[objects.image[j]])
                if problem:
                    keep[j] = False
                    dropped.append(Dropped(f'{objects.sources(j)}, image '
                                           f'{images.paths[objects.image[j]]}', problem))
        return cut, keep

    def original(self, index: int) -> DataSample:
        """Truth of an image in its own pixels, before any transform.

        ``extra`` has ``areas``, ``ann_ids`` and ``segmentation`` as the file gives them.
        """
        record = self.table[index]
        extra = {k: record[k] for k in ('segmentation',) if k in record}
        size = record['height'], record['width']
        return DataSample(
            meta={'img_id': record['img_id'], 'img_path': record['img_path'], 'ori_shape': size,
                  'img_shape': size},
            boxes=_tensor(record['boxes']), labels=_tensor(record['labels']),
            is_crowd=_tensor(record['is_crowd']),
            extra={'areas': _tensor(record['areas']), 'ann_ids': _tensor(record['ann_ids']),
                   **extra})


def mask_problem(segmentation: Any, size: np.ndarray) -> str | None:
    """Why the mask of an object cannot belong to an image of ``size`` (H, W), if so."""
    if isinstance(segmentation, dict):
        found = segmentation.get('size')
        if not isinstance(found, (list, tuple)) or len(found) != 2 or 'counts' not in segmentation:
            return 'run lengths need size and counts'
        if (found[0], found[1]) != (size[0], size[1]):
            return f'mask is {found[1]} x {found[0]} but its image is {size[1]} x {size[0]}'
        return None
    if not isinstance(segmentation, list) or not segmentation:
        return 'object has no mask'
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return 'a polygon needs at least three points (six numbers)'
    return None


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
