"""Panoptic quality: how well segments are found, things and stuff alike.

Paper: Panoptic Segmentation, https://arxiv.org/abs/1801.00868 (section 4); crowds and unlabelled
pixels as in COCO's evaluation.

K classes · H, W size of the original image · n, m segments of prediction and truth
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample
from openlab.structures.geometry import to_original

_IOU, _TP, _FP, _FN = range(4)


@METRICS.register_module()
class PanopticQuality(Metric):
    """Segmentation quality (mean IoU of found segments) times recognition quality (their F1).

    A predicted segment finds a true one of its class if they overlap by an IoU above 0.5; pixels
    without truth count for neither. Crowds need not be found, and a prediction that lies mostly
    on a crowd of its class or on pixels without truth is no mistake. Averages are over classes
    that occur; maps are compared in original pixels. Only four sums of each class are kept.

    The results ``PQ``, ``SQ`` and ``RQ`` are followed by ``_things`` and ``_stuff`` where the
    dataset's ``is_thing`` (or ``stuff``) tells them apart. ``per_class`` has them by name.

    Args:
        num_classes: K; by default what the dataset says.
        stuff: labels that are stuff; by default what the dataset says.
        per_class: whether the results name every class as well.
        name: prefix of the result names.

    Attributes:
        sums: IoU of found segments, their number, false alarms and misses, (K, 4) float64.
    """

    name = 'panoptic'

    def __init__(self, num_classes: int | None = None, stuff: Sequence[int] | None = None,
                 per_class: bool = False, name: str | None = None):
        self.num_classes, self.stuff, self.per_class = num_classes, stuff, per_class
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.sums: Tensor | None = None

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Compare the segments of a batch."""
        sums = np.zeros((self._count_classes(), 4))
        for prediction, sample in zip(predictions, samples, strict=True):
            found, truth = to_original(prediction), to_original(sample)
            for what, part in (('prediction', found), ('sample', truth)):
                if part.panoptic_map is None or part.segments is None:
                    raise ValueError(f'the {what} {sample.meta.get("img_id", "?")} has no '
                                     'panoptic_map and segments: PanopticQuality compares those')
            sums += compare_segments(_numbered(found), _numbered(truth), len(sums))
        new = torch.from_numpy(sums)
        self.sums = new if self.sums is None else self.sums + new

    def compute(self) -> dict[str, float]:
        """Averages over classes, from 0 to 1; -1 where no class of a kind occurs."""
        if self.sums is None:
            raise ValueError('PanopticQuality has seen no image: is the evaluation dataset empty?')
        iou, tp, fp, fn = self.sums.numpy().T
        counted = tp + (fp + fn) / 2
        seen = counted > 0
        divisor = np.maximum(counted, 0.5)  # the least that is not 0
        quality = np.stack([iou / divisor, iou / np.maximum(tp, 1), tp / divisor])
        stuff = self._stuff()
        groups = {'': np.ones(len(seen), dtype=bool)}
        if stuff is not None:
            groups |= {'_things': ~stuff, '_stuff': stuff}
        results: dict[str, float] = {}
        lines = [f'{"":10}     PQ     SQ     RQ    N']
        for ending, group in groups.items():
            members = group & seen
            means = quality[:, members].mean(1) if members.any() else np.full(3, -1.0)
            results |= {f'{k}{ending}': float(v) for k, v in zip(('PQ', 'SQ', 'RQ'), means)}
            shown = ' '.join(f'{100 * v:6.1f}' for v in means)
            lines.append(f'{ending[1:] or "all":10} {shown} {members.sum():4d}')
        print_log('panoptic quality:\n' + '\n'.join(lines), logger='current')
        if self.per_class:
            names = self.dataset_meta.get('classes') or [str(i) for i in range(len(seen))]
            results |= {f'PQ_{names[i]}': float(quality[0, i]) if seen[i] else -1.0
                        for i in range(len(seen))}
        return results

    def state(self) -> Tensor | None:
        """The sums, (K, 4)."""
        return self.sums

    def merge(self, states: list[Tensor | None]) -> None:
        """Add the sums of all processes; one that saw nothing has none."""
        seen = [s for s in states if s is not None]
        self.sums = torch.stack(seen).sum(0) if seen else None

    def _count_classes(self) -> int:
        classes = self.dataset_meta.get('classes') or ()
        if self.num_classes is None and not classes:
            raise ValueError('PanopticQuality needs num_classes: the dataset names no classes')
        return self.num_classes or len(classes)

    def _stuff(self) -> np.ndarray | None:
        is_thing = self.dataset_meta.get('is_thing')
        if self.stuff is not None:
            return np.isin(np.arange(self._count_classes()), list(self.stuff))
        return None if is_thing is None else ~np.asarray(is_thing, dtype=bool)


def _numbered(sample: DataSample) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Map (H, W) with n for ``segments[n - 1]``, 0 for none, and the segments.

    Raises:
        ValueError: if the map holds an id that no segment has, or two segments have the same.
    """
    assert sample.panoptic_map is not None and sample.segments is not None
    name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
    ids = np.array([s['id'] for s in sample.segments], dtype=np.int64)
    values, places = np.unique(sample.panoptic_map.numpy(), return_inverse=True)
    unknown = set(values.tolist()) - set(ids.tolist()) - {0}
    if unknown or len(set(ids.tolist())) < len(ids):
        what = f'no segment has the id {min(unknown)}' if unknown else f'ids repeat: {ids.tolist()}'
        raise ValueError(f'panoptic_map and segments of {name} do not fit: {what}')
    number = {int(i): n for n, i in enumerate(ids, start=1)}
    table = np.array([number.get(int(v), 0) for v in values])
    return table[places].reshape(sample.panoptic_map.shape), sample.segments


def compare_segments(
    found: tuple[np.ndarray, list[dict[str, Any]]],
    truth: tuple[np.ndarray, list[dict[str, Any]]],
    num_classes: int,
) -> np.ndarray:
    """Match the segments of one image.

    Args:
        found: map (H, W), n for segment n - 1 and 0 for none, and n segments with ``label``.
        truth: the same, where segments may be ``is_crowd``.
        num_classes: K.

    Returns:
        IoU of found segments, their number, false alarms and misses of each class, (K, 4).
    """
    n, m = len(found[1]), len(truth[1])
    pairs = np.bincount((found[0] * (m + 1) + truth[0]).ravel(), minlength=(n + 1) * (m + 1))
    overlap = pairs.reshape(n + 1, m + 1)
    found_area, true_area = overlap.sum(1), overlap.sum(0)
    without_truth = overlap[:, 0]
    found_labels, true_labels = _labels(found[1], num_classes), _labels(truth[1], num_classes)
    crowd = np.array([bool(s.get('is_crowd')) for s in truth[1]], dtype=bool)

    inner = overlap[1:, 1:]
    union = (found_area - without_truth)[1:, None] + true_area[1:] - inner
    iou = inner / np.maximum(union, 1)
    hits = (iou > 0.5) & (found_labels[:, None] == true_labels) & ~crowd
    hit_found, hit_true = np.nonzero(hits)

    # A false alarm is excused if it lies mostly where there is no truth, or on its class's crowds.
    same_crowd = (found_labels[:, None] == true_labels) & crowd
    excused = without_truth[1:] + (inner * same_crowd).sum(1)
    alarm = ~hits.any(1) & (excused <= found_area[1:] / 2) & (found_area[1:] > 0)
    missed = ~hits.any(0) & ~crowd & (true_area[1:] > 0)

    sums = np.zeros((num_classes, 4))
    np.add.at(sums[:, _IOU], true_labels[hit_true], iou[hit_found, hit_true])
    np.add.at(sums[:, _TP], true_labels[hit_true], 1)
    np.add.at(sums[:, _FP], found_labels[alarm], 1)
    np.add.at(sums[:, _FN], true_labels[missed], 1)
    return sums


def _labels(segments: list[dict[str, Any]], num_classes: int) -> np.ndarray:
    labels = np.array([s['label'] for s in segments], dtype=np.int64)
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f'labels of segments must be from 0 to {num_classes - 1}, '
                         f'got {labels.tolist()}')
    return labels
