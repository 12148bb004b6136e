"""Maps seen as objects, so that whatever handles objects handles segmentation as well.

N objects · H, W image height and width
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from openlab.structures.data_sample import DataSample
from openlab.structures.item_errors import Task
from openlab.structures.masks import masks_to_boxes

IGNORE = 255


def segments_as_objects(sample: DataSample) -> DataSample:
    """The segments of a panoptic map as objects with masks, boxes, labels and scores.

    Args:
        sample: with ``panoptic_map`` and ``segments``.

    Returns:
        A sample with one object for each segment, in order, and without maps. Scores are there
        if any segment has one.
    """
    assert sample.panoptic_map is not None and sample.segments is not None
    segments = sample.segments
    shape = (0, *sample.panoptic_map.shape)
    masks = torch.stack([sample.panoptic_map == s['id'] for s in segments]) if segments else (
        torch.zeros(shape, dtype=torch.bool))
    scores = None
    if any(s.get('score') is not None for s in segments):
        scores = torch.tensor([1.0 if s.get('score') is None else float(s['score'])
                               for s in segments])
    return replace(
        sample, boxes=masks_to_boxes(masks), masks=masks, scores=scores,
        labels=torch.tensor([int(s['label']) for s in segments], dtype=torch.int64),
        is_crowd=torch.tensor([bool(s.get('is_crowd')) for s in segments], dtype=torch.bool),
        panoptic_map=None, segments=None, semantic_map=None, keypoints=None)


def classes_as_objects(sample: DataSample, ignore_index: int = IGNORE) -> DataSample:
    """The classes of a semantic map as objects: one mask for each class that occurs.

    Args:
        sample: with ``semantic_map``.
        ignore_index: value, besides 255, of pixels that belong to no class.
    """
    assert sample.semantic_map is not None
    found = sample.semantic_map.unique()
    labels = found[(found != IGNORE) & (found != ignore_index)].to(torch.int64)
    masks = sample.semantic_map[None] == labels[:, None, None]
    return replace(sample, boxes=None, masks=masks, labels=labels, scores=None, is_crowd=None,
                   semantic_map=None, panoptic_map=None, segments=None, keypoints=None)


_FIELDS: dict[str, tuple[str, ...]] = {
    'classification': ('label', 'label_probs'),
    'detection': ('boxes', 'labels', 'scores', 'is_crowd'),
    'instance': ('boxes', 'masks', 'labels', 'scores', 'is_crowd'),
    'semantic': ('semantic_map',),
    'panoptic': ('panoptic_map', 'segments'),
}


def fields_of_task(sample: DataSample, task: Task) -> DataSample:
    """The sample with what the task compares alone: a model may answer several tasks at once."""
    kept = _FIELDS[task]
    names = {name for names in _FIELDS.values() for name in names} | {'keypoints'}
    others: dict[str, Any] = {name: None for name in names if name not in kept}
    return replace(sample, **others)
