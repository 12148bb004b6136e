"""From many scored boxes to the few that are reported.

A candidates · N detections
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from openlab.structures.data_sample import DataSample


def keep_candidates(probs: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Best (place, class) pairs of one level.

    Args:
        probs: (A, K).
        threshold: only higher ones are kept.
        limit: at most so many are.

    Returns:
        Scores, places and labels, each (n,), best first.
    """
    place, label = (probs > threshold).nonzero(as_tuple=True)
    scores, order = probs[place, label].sort(descending=True, stable=True)
    order = order[:limit]
    return scores[:limit], place[order], label[order]


def detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    sample: DataSample,
    image_size: tuple[int, int],
    iou_threshold: float,
    limit: int,
) -> DataSample:
    """Clip to the image, suppress duplicates class by class, keep the best.

    Args:
        boxes: xyxy in pixels of the padded input, (A, 4).
        scores: (A,).
        labels: (A,).
        sample: whose ``meta`` is carried over; ``img_shape`` is the size without padding.
        image_size: (H, W) where ``meta`` has none.
        iou_threshold: of two boxes that overlap more, the worse one goes.
        limit: at most so many are kept.
    """
    height, width = sample.meta.get('img_shape', image_size)[:2]
    boxes = clip_boxes_to_image(boxes, (height, width))
    kept = batched_nms(boxes, scores, labels, iou_threshold)[:limit]
    return DataSample(
        meta=dict(sample.meta), boxes=boxes[kept], scores=scores[kept], labels=labels[kept]
    )


def truth_of(sample: DataSample) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and labels (N,) to learn from; crowds are left out.

    Raises:
        ValueError: if the sample has no boxes at all (an image without objects has zero of them).
    """
    if sample.boxes is None or sample.labels is None:
        name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
        raise ValueError(f'sample {name} has no boxes or labels; a detector cannot learn from it')
    if sample.is_crowd is None or not bool(sample.is_crowd.any()):
        return sample.boxes, sample.labels
    keep = ~sample.is_crowd
    return sample.boxes[keep], sample.labels[keep]


def concat(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate tuples of tensors element by element."""
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
