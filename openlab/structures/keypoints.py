"""Keypoints as tensors (N, J, 3): x, y in pixels (x from 0 to W), and visibility.

Visibility follows COCO: 0 not labelled or outside, 1 hidden, 2 visible.
N objects · J keypoints of each
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flip_keypoints(keypoints: Tensor, width: int, pairs: Sequence[Sequence[int]] = ()) -> Tensor:
    """Mirror horizontally; the two points of each pair (left eye, right eye) change places."""
    flipped = keypoints.clone()
    flipped[..., 0] = width - flipped[..., 0]
    order = list(range(keypoints.shape[-2]))
    for a, b in pairs:
        order[a], order[b] = b, a
    return flipped[..., order, :]


def clip_visibility(keypoints: Tensor, size: tuple[int, int]) -> Tensor:
    """Set the visibility of points outside an image of ``size`` (H, W) to 0."""
    height, width = size
    x, y = keypoints[..., 0], keypoints[..., 1]
    outside = (x < 0) | (y < 0) | (x > width) | (y > height)
    clipped = keypoints.clone()
    clipped[..., 2] = torch.where(outside, 0.0, clipped[..., 2])
    return clipped


def keypoints_to_boxes(keypoints: Tensor) -> Tensor:
    """Tightest box around the labelled points of each object, (N, 4); zeros where none is."""
    labelled = keypoints[..., 2] > 0
    points = keypoints[..., :2]
    low = points.masked_fill(~labelled[..., None], torch.inf).amin(dim=-2)
    high = points.masked_fill(~labelled[..., None], -torch.inf).amax(dim=-2)
    boxes = torch.cat([low, high], dim=-1)
    return torch.where(labelled.any(-1)[..., None], boxes, 0.0)


def keypoint_similarity(first: Tensor, second: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """COCO's object keypoint similarity of aligned objects.

    Args:
        first: predicted points, (N, J, 3).
        second: true points, (N, J, 3); only labelled ones count.
        areas: area of each true object, (N,).
        sigmas: falloff of each keypoint, (J,).

    Returns:
        Similarity from 0 to 1, (N,); 0 for objects without a labelled point.
    """
    distance_NJ = (first[..., :2] - second[..., :2]).square().sum(-1)
    falloff_NJ = 2 * (2 * sigmas).square() * areas[:, None].clamp(min=1e-12)
    labelled_NJ = second[..., 2] > 0
    score_NJ = torch.exp(-distance_NJ / falloff_NJ) * labelled_NJ
    return score_NJ.sum(-1) / labelled_NJ.sum(-1).clamp(min=1)
