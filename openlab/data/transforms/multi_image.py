"""Transforms that mix several images; a ``MultiImageDataset`` hands them the others.

The result of ``Mosaic`` is a new image: ``ori_shape`` is its own size and nothing leads back to
the files it was made of.

N objects · H, W size of the result
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from openlab.data.errors import DataError
from openlab.data.transforms.annotations import bounds_of
from openlab.data.transforms.base import Results, Transform, check_prob
from openlab.data.transforms.crop import WindowMove
from openlab.data.transforms.geometry import (
    IGNORE,
    PER_OBJECT,
    Fill,
    apply_move,
    as_fill,
    check_size,
    scaling,
    select_objects,
    translation,
)
from openlab.data.transforms.resize import ResizeMove, scaled_size
from openlab.registry import TRANSFORMS


class MultiImageTransform(Transform):
    """Base of transforms that need other items; these come as a list in ``results['others']``.

    Args:
        prob: how often anything is done.
    """

    def __init__(self, prob: float = 1.0):
        self.prob = check_prob(prob)

    def draw_count(self) -> int:
        """How many other items this call needs (drawn; 0 for none)."""
        return self.num_others if np.random.rand() < self.prob else 0

    num_others: int = 1

    @abstractmethod
    def mix(self, results: Results, others: list[Results]) -> Results | None:
        """Mix one item with the others."""

    def __call__(self, results: Results) -> Results | None:
        """Mix if there are others to mix with.

        Raises:
            DataError: outside of a ``MultiImageDataset``.
        """
        others = results.pop('others', None)
        if others is None:
            raise DataError(f'{type(self).__name__} needs other items: put it into the pipeline '
                            f'of a MultiImageDataset, around the dataset that loads them')
        return self.mix(results, others) if others else results


@TRANSFORMS.register_module()
class Mosaic(MultiImageTransform):
    """Four images around a point, each as large as fits into half of the result.

    Paper: YOLOv4, https://arxiv.org/abs/2004.10934. Usually followed by a ``RandomAffine`` or a
    crop. Objects that are cut away at the seams go, see ``min_visible``.

    Args:
        size: (H, W) of the result, or one number for both.
        center_range: where the images meet, as parts of the size.
        fill: colour where no image is.
        min_visible: drop objects that keep no more than this part of their box.
        prob: how often.
    """

    num_others = 3

    def __init__(self, size: int | Sequence[int], center_range: Sequence[float] = (0.25, 0.75),
                 fill: Fill | Sequence[int] = 114, min_visible: float = 0.1, prob: float = 1.0):
        super().__init__(prob)
        if not 0 < center_range[0] <= center_range[1] < 1:
            raise ValueError(f'center_range must be 0 < low <= high < 1, got {center_range}')
        self.size = check_size(size)
        self.center_range = (float(center_range[0]), float(center_range[1]))
        self.fill = as_fill(fill)
        self.min_visible = min_visible

    def mix(self, results: Results, others: list[Results]) -> Results:
        """Scale each image, cut it to its quarter and lay the quarters together."""
        height, width = self.size
        y, x = (int(s * np.random.uniform(*self.center_range)) for s in self.size)
        quarters = [(0, 0, y, x), (0, x, y, width - x), (y, 0, height - y, x),
                    (y, x, height - y, width - x)]
        placed = []
        for place, (piece, quarter) in enumerate(zip([results, *others], quarters)):
            top, left, *size = quarter
            self._fit(piece, (size[0], size[1]), at_bottom=place < 2, at_right=place % 2 == 0)
            shift_objects(piece, left, top)
            placed.append((piece, quarter))
        return self._joined(placed)

    def _fit(self, piece: Results, size: tuple[int, int], at_bottom: bool,
             at_right: bool) -> None:
        """Scale to half of the result, then cut or pad to the quarter from the inner corner."""
        height, width = piece['img'].shape[:2]
        factor = min(self.size[0] / 2 / height, self.size[1] / 2 / width)
        new = scaled_size(height, width, factor)
        apply_move(piece, ResizeMove(scaling(new[1] / width, new[0] / height), new))
        top = new[0] - size[0] if at_bottom else 0
        left = new[1] - size[1] if at_right else 0
        move = WindowMove(translation(-left, -top), size, fill=self.fill,
                          window=(top, left, *size))
        apply_move(piece, move, self.min_visible)

    def _joined(self, placed: list[tuple[Results, tuple[int, int, int, int]]]) -> Results:
        pieces = [piece for piece, _ in placed]
        result: Results = {k: v for k, v in pieces[0].items() if k not in (
            'matrix', 'scale_factor', 'flip', 'flip_direction', *PER_OBJECT)}
        image = np.empty((*self.size, 3), pieces[0]['img'].dtype)
        semantic = all(p.get('semantic_map') is not None for p in pieces)
        seen = np.full(self.size, IGNORE, pieces[0]['semantic_map'].dtype) if semantic else None
        for piece, (top, left, height, width) in placed:
            window = (slice(top, top + height), slice(left, left + width))
            image[window] = piece['img']
            if seen is not None:
                seen[window] = piece['semantic_map']
            if piece.get('masks') is not None:
                masks = np.zeros((len(piece['masks']), *self.size), np.uint8)
                masks[(slice(None), *window)] = piece['masks']
                piece['masks'] = masks
        result.update(img=image, img_shape=self.size, ori_shape=self.size)
        if seen is not None:
            result['semantic_map'] = seen
        return {**result, **joined_objects(pieces)}


@TRANSFORMS.register_module()
class BoxMixUp(MultiImageTransform):
    """Blend two images; the objects of both count.

    Paper: Bag of Freebies for object detection, https://arxiv.org/abs/1902.04103, as YOLOX uses
    it (half and half). The other image is fitted into this one.

    Args:
        share: how much of this image remains, a number or a range to draw from.
        fill: colour where the other image does not reach.
        prob: how often.
    """

    def __init__(self, share: float | Sequence[float] = 0.5, fill: Fill | Sequence[int] = 114,
                 prob: float = 1.0):
        super().__init__(prob)
        low, high = (share, share) if isinstance(share, (int, float)) else share
        if not 0 < low <= high < 1:
            raise ValueError(f'share must be within 0 and 1, got {share}')
        self.share = (float(low), float(high))
        self.fill = as_fill(fill)

    def mix(self, results: Results, others: list[Results]) -> Results:
        """Fit, blend, join the objects."""
        if results.get('semantic_map') is not None or results.get('panoptic_map') is not None:
            raise DataError('BoxMixUp cannot blend maps of classes; use it for boxes and masks')
        other = fit_into(others[0], results['img'].shape[:2], self.fill)
        share = np.random.uniform(*self.share)
        blend = results['img'] * share + other['img'] * (1 - share)
        results['img'] = (blend + 0.5).astype(results['img'].dtype)
        results.update(joined_objects([results, other]))
        return results


@TRANSFORMS.register_module()
class CopyPaste(MultiImageTransform):
    """Cut objects out of another image along their masks and paste them here.

    Paper: Simple Copy-Paste, https://arxiv.org/abs/2012.07177. What is pasted covers what was
    there: masks and boxes shrink, and objects that hardly show any more go. Boxes of objects
    that nothing covers stay as they were. Crowds are not pasted.

    Args:
        max_objects: most objects to paste; how many and which is drawn.
        min_visible: drop covered objects that keep no more than this part of their mask.
        min_area: drop covered objects with fewer pixels.
        prob: how often.
    """

    def __init__(self, max_objects: int = 100, min_visible: float = 0.1, min_area: int = 10,
                 prob: float = 1.0):
        super().__init__(prob)
        self.max_objects = max_objects
        self.min_visible = min_visible
        self.min_area = min_area

    def mix(self, results: Results, others: list[Results]) -> Results:
        """Choose, paste, cover."""
        if results.get('panoptic_map') is not None:
            raise DataError('CopyPaste does not renumber panoptic maps; leave it out there')
        other = fit_into(others[0], results['img'].shape[:2])
        if results.get('masks') is None or other.get('masks') is None:
            raise DataError('CopyPaste needs masks; give the dataset with_masks=True and let '
                            'LoadAnnotations read them')
        self._choose(other)
        if not len(other['masks']):
            return results
        pasted = other['masks'].any(axis=0)
        # A copy: the image may be one that a dataset keeps.
        results['img'] = np.where(pasted[..., None], other['img'], results['img'])
        if results.get('semantic_map') is not None and other.get('semantic_map') is not None:
            results['semantic_map'] = np.where(pasted, other['semantic_map'],
                                               results['semantic_map'])
        self._cover(results, pasted)
        results.update(joined_objects([results, other]))
        return results

    def _choose(self, other: Results) -> None:
        count = len(other['masks'])
        limit = min(count, self.max_objects)
        wanted = np.random.permutation(count)[:np.random.randint(limit + 1)]
        keep = np.zeros(count, dtype=bool)
        keep[wanted] = True
        if other.get('is_crowd') is not None:
            keep &= ~other['is_crowd'].astype(bool)
        select_objects(other, keep & other['masks'].any(axis=(1, 2)))

    def _cover(self, results: Results, pasted: np.ndarray) -> None:
        masks = results['masks']
        before = masks.sum(axis=(1, 2), dtype=np.int64)
        left = masks * ~pasted
        after = left.sum(axis=(1, 2), dtype=np.int64)
        touched = after < before
        results['masks'] = left
        if results.get('boxes') is not None:
            results['boxes'] = results['boxes'].copy()
            results['boxes'][touched] = bounds_of(left[touched])
        gone = touched & ((after < self.min_area) | (after <= self.min_visible * before))
        select_objects(results, ~gone)


def fit_into(results: Results, size: tuple[int, int], fill: Fill = 0) -> Results:
    """Scale an item to the largest size within (H, W); pad below and to the right."""
    height, width = results['img'].shape[:2]
    if (height, width) == size:
        return results
    new = scaled_size(height, width, min(size[0] / height, size[1] / width))
    new = min(new[0], size[0]), min(new[1], size[1])
    apply_move(results, ResizeMove(scaling(new[1] / width, new[0] / height), new))
    return apply_move(results, WindowMove(np.eye(3), size, fill=fill, window=(0, 0, *size)))


def shift_objects(results: Results, x: float, y: float) -> None:
    """Move boxes and keypoints, as a piece is laid into a larger image."""
    if results.get('boxes') is not None:
        results['boxes'] = (results['boxes'] + np.array([x, y, x, y])).astype(np.float32)
    if results.get('keypoints') is not None:
        results['keypoints'] = results['keypoints'] + np.array([x, y, 0], np.float32)


def joined_objects(pieces: Sequence[Results]) -> Results:
    """Fields of objects end to end; only those that every piece has."""
    return {key: np.concatenate([p[key] for p in pieces]) for key in PER_OBJECT
            if all(p.get(key) is not None for p in pieces)}
