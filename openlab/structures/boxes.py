"""Boxes as tensors: xyxy in pixels, x from 0 to W (pixel i covers [i, i + 1)).

N, M numbers of boxes
"""

from __future__ import annotations

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size, (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners, (..., 4)."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Top left corner and size (COCO's files) to corners, (..., 4)."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to top left corner and size, (..., 4)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes (..., 4) at the borders of an image of ``size`` (H, W)."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def box_area(boxes: Tensor) -> Tensor:
    """Area of each box, (...,); 0 where a box is turned inside out."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of all pairs of (N, 4) and (M, 4), (N, M); 0 for empty unions."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap_NM = (high - low).clamp(min=0).prod(-1)
    union_NM = box_area(first)[:, None] + box_area(second)[None] - overlap_NM
    return torch.where(union_NM > 0, overlap_NM / union_NM.clamp(min=1e-12), 0.0)


def scale_boxes(boxes: Tensor, factor: tuple[float, float]) -> Tensor:
    """Multiply x by ``factor[0]`` and y by ``factor[1]``."""
    x, y = factor
    return boxes * boxes.new_tensor([x, y, x, y])


def flip_boxes(boxes: Tensor, size: tuple[int, int], direction: str = 'horizontal') -> Tensor:
    """Mirror boxes of an image of ``size`` (H, W); ``horizontal``, ``vertical`` or ``both``."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    if direction not in ('horizontal', 'vertical', 'both'):
        raise ValueError(f"direction must be 'horizontal', 'vertical' or 'both', "
                         f'got {direction!r}')
    if direction != 'vertical':
        x1, x2 = width - x2, width - x1
    if direction != 'horizontal':
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], dim=-1)
