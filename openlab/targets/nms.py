"""From many scored boxes to the few that are reported.

A places · K classes · n candidates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


@MODELS.register_module()
@dataclass(frozen=True)
class DetectionLimits:
    """Which candidates become detections.

    Attributes:
        score: only candidates that score higher.
        nms_iou: of two boxes of a class that overlap more, the worse one goes.
        candidates: at most so many of each level (or image) before suppression.
        detections: at most so many of each image in the end.
    """

    score: float = 0.05
    nms_iou: float = 0.5
    candidates: int = 1000
    detections: int = 100


def dense_detections(
    probs: Tensor,
    boxes: Tensor,
    level_sizes: Sequence[int],
    sample: DataSample,
    image_size: tuple[int, int],
    limits: DetectionLimits,
) -> DataSample:
    """Detections of one image from scores and boxes at every place of every level.

    Args:
        probs: (A, K).
        boxes: xyxy in pixels of the padded input, (A, 4).
        level_sizes: how A is made up of levels, each of which keeps its own best candidates.
        sample: whose ``meta`` is carried over.
        image_size: (H, W) of the padded input.
        limits: which candidates become detections.
    """
    scores, place, labels = dense_candidates(probs, level_sizes, limits)
    return detections(boxes[place], scores, labels, sample, image_size, limits)


def dense_candidates(
    scores: Tensor, level_sizes: Sequence[int], limits: DetectionLimits
) -> tuple[Tensor, Tensor, Tensor]:
    """The best places and classes of each level, best first.

    Args:
        scores: of each place and class, (A, K).
        level_sizes: how A is made up of levels.
        limits: for score and number.

    Returns:
        Score, place (index into A) and class of each, (n,).
    """
    kept = []
    begin = 0
    for size, level in zip(level_sizes, scores.split(list(level_sizes)), strict=True):
        place, label = (level > limits.score).nonzero(as_tuple=True)
        best, order = level[place, label].sort(descending=True, stable=True)
        order = order[: limits.candidates]
        kept.append((best[: limits.candidates], begin + place[order], label[order]))
        begin += size
    best, places, labels = (torch.cat(values) for values in zip(*kept, strict=True))
    return best, places, labels


def detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    sample: DataSample,
    image_size: tuple[int, int],
    limits: DetectionLimits,
) -> DataSample:
    """Clip to the image, suppress duplicates class by class, keep the best.

    Args:
        boxes: xyxy in pixels of the padded input, (n, 4).
        scores: (n,).
        labels: (n,).
        sample: whose ``meta`` is carried over; ``img_shape`` is the size without padding.
        image_size: (H, W) where ``meta`` has none.
        limits: for suppression and number.
    """
    height, width = sample.meta.get('img_shape', image_size)[:2]
    boxes = clip_boxes_to_image(boxes, (height, width))
    kept = batched_nms(boxes, scores, labels, limits.nms_iou)[: limits.detections]
    return DataSample(
        meta=dict(sample.meta), boxes=boxes[kept], scores=scores[kept], labels=labels[kept]
    )


def truth_of(sample: DataSample, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and labels (N,) to learn from; crowds are left out.

    Args:
        sample: the truth.
        num_classes: K, to check labels and boxes as well (on the CPU only, where looking costs
            nothing).

    Raises:
        ValueError: if the sample has no boxes at all (an image without objects has zero of them),
            or some that no head could learn.
    """
    if sample.boxes is None or sample.labels is None:
        name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
        raise ValueError(f'sample {name} has no boxes or labels; a detector cannot learn from it')
    if num_classes is not None:
        check_objects(sample, num_classes)
    if sample.is_crowd is None or not bool(sample.is_crowd.any()):
        return sample.boxes, sample.labels
    keep = ~sample.is_crowd
    return sample.boxes[keep], sample.labels[keep]


def check_objects(sample: DataSample, num_classes: int) -> None:
    """Look for labels beyond the classes, boxes that are none, and masks of another number.

    Args:
        sample: the truth; nothing is looked at where it is not on the CPU.
        num_classes: K.

    Raises:
        ValueError: naming the sample, the value and what is accepted.
    """
    boxes, labels, masks = sample.boxes, sample.labels, sample.masks
    if labels is None or labels.device.type != 'cpu' or torch.compiler.is_compiling():
        return
    name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f'sample {name} has the label {int(wrong[0])}, but the head has num_classes='
            f'{num_classes} (0 to {num_classes - 1}); set model.head.num_classes, or mend the '
            'labels')
    if boxes is not None:
        bad = ~boxes.isfinite().all(1) | (boxes[:, 2:] <= boxes[:, :2]).any(1)
        if bad.any():
            corners = ', '.join(f'{v:g}' for v in boxes[bad][0].tolist())
            raise ValueError(f'sample {name} has the box [{corners}] (xyxy): it must be four '
                             'finite numbers with x1 < x2 and y1 < y2; drop it in the dataset or '
                             'the pipeline')
    if masks is not None and len(masks) != len(labels):
        raise ValueError(f'sample {name} has {len(masks)} masks for {len(labels)} objects')
