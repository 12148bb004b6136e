"""A sheet of predictions beside their truth: what a model gets wrong, at a glance.

N objects · M predicted objects
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import (
    IGNORED,
    RIGHT,
    WRONG,
    Colour,
    draw_grid,
    draw_sample,
    label_of,
)
from openlab.visualization.text import BLACK


def prediction_sheet(
    images: Sequence[np.ndarray | Tensor],
    predictions: Sequence[DataSample],
    truths: Sequence[DataSample],
    classes: Sequence[str] | None = None,
    *,
    title: str = 'Predictions',
    max_items: int = 48,
    columns: int | None = None,
    min_side: int = 128,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Draw predictions in a grid, the worst and surest errors first, framed by right or wrong.

    Args:
        images: one image for each prediction.
        predictions: what the model says.
        truths: what it should say.
        classes: names of the classes.
        title: first words over the sheet.
        max_items: most items to draw.
        columns: items in a row.
        min_side: smaller images are enlarged to this short side.
        score_threshold: objects with a smaller score count as not found.

    Returns:
        The sheet, (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if the three sequences differ in length, or are empty.
    """
    if not len(images) == len(predictions) == len(truths):
        raise ValueError(f'each image needs a prediction and a truth; got {len(images)} images, '
                         f'{len(predictions)} predictions, {len(truths)} truths')
    errors = [count_errors(p, t, score_threshold) for p, t in zip(predictions, truths)]
    order = worst_first(predictions, errors)[:max_items]
    pictures = [
        draw_sample(images[i], predictions[i], classes, truths[i], min_side=min_side,
                    score_threshold=score_threshold) for i in order]
    frames = [_frame(errors[i]) for i in order]
    if columns is None:
        widest = max(p.shape[1] for p in pictures) if pictures else 1
        columns = int(np.clip(2200 // widest, 2, 8))
    return draw_grid(pictures, columns, frames=frames, pad=14,
                     header=_header(title, errors, len(order), is_label=_is_label(predictions)))


def worst_first(predictions: Sequence[DataSample], errors: Sequence[float | None]) -> list[int]:
    """Indices with the most errors first; of equal ones the more confident error first.

    Items without an error stay in their order.
    """
    def rank(i: int) -> tuple[float, float]:
        error = errors[i] or 0.0
        label = label_of(predictions[i])
        confidence = label[1] if error and label is not None and label[1] is not None else 0.0
        return -error, -confidence

    return sorted(range(len(predictions)), key=rank)


def count_errors(prediction: DataSample, truth: DataSample, score_threshold: float = 0.3,
                 iou_threshold: float = 0.5) -> float | None:
    """How wrong a prediction is: 0 is right; ``None`` where there is nothing to compare.

    A wrong class label is one error; objects count those missed and those invented; a semantic
    map counts the share of wrong pixels.
    """
    predicted, expected = label_of(prediction), label_of(truth)
    if predicted is not None and expected is not None:
        return float(predicted[0] != expected[0])
    if prediction.boxes is not None and truth.boxes is not None:
        return float(_object_errors(prediction, truth, score_threshold, iou_threshold))
    if prediction.semantic_map is not None and truth.semantic_map is not None:
        known = truth.semantic_map != IGNORED
        wrong = (prediction.semantic_map != truth.semantic_map) & known
        return float(wrong.sum() / known.sum().clamp(min=1))
    return None


def box_ious(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of all pairs of xyxy boxes: (M, 4), (N, 4) to (M, N)."""
    corner = torch.maximum(a[:, None, :2], b[None, :, :2])
    other = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (other - corner).clamp(min=0).prod(-1)
    area_a = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(-1)
    area_b = (b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1)
    return inter / (area_a[:, None] + area_b[None] - inter).clamp(min=1e-9)


def _object_errors(prediction: DataSample, truth: DataSample, score_threshold: float,
                   iou_threshold: float) -> int:
    boxes, labels = prediction.boxes, prediction.labels
    assert boxes is not None and truth.boxes is not None
    if prediction.scores is not None:
        order = prediction.scores.argsort(descending=True, stable=True)
        order = order[prediction.scores[order] >= score_threshold]
        boxes = boxes[order]
        labels = labels[order] if labels is not None else None
    ious_MN = box_ious(boxes.float(), truth.boxes.float())
    if labels is not None and truth.labels is not None:
        ious_MN = ious_MN * (labels[:, None] == truth.labels[None])
    found = 0
    for m in range(len(boxes)):
        if ious_MN.shape[1] and float(ious_MN[m].max()) >= iou_threshold:
            ious_MN[:, ious_MN[m].argmax()] = -1  # each object is found once
            found += 1
    return len(boxes) + len(truth.boxes) - 2 * found


def _is_label(predictions: Sequence[DataSample]) -> bool:
    return bool(predictions) and label_of(predictions[0]) is not None


def _frame(error: float | None) -> Colour | None:
    if error is None:
        return None
    return WRONG if error else RIGHT


def _header(title: str, errors: Sequence[float | None], shown: int,
            is_label: bool) -> list[tuple[str, Colour]]:
    known = [e for e in errors if e is not None]
    lines: list[tuple[str, Colour]] = [(title, BLACK)]
    if known and is_label:
        right = sum(not e for e in known)
        lines.append((f'{right} of {len(known)} right ({right / len(known):.2%})', BLACK))
    elif known:
        lines.append((f'{sum(bool(e) for e in known)} of {len(known)} with errors', BLACK))
    if shown < len(errors):
        lines.append((f'{shown} of {len(errors)} shown, errors first', BLACK))
    return lines
