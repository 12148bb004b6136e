"""Boxes as offsets from other boxes, which is what networks predict.

Paper: Rich feature hierarchies, https://arxiv.org/abs/1311.2524 (appendix C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A predicted size may be at most this many times the anchor's; without a limit exp overflows.
MAX_LOG_SCALE = math.log(1000 / 16)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Offsets (dx, dy, dw, dh) that lead from anchors to boxes.

    Args:
        boxes: xyxy, (..., 4).
        anchors: xyxy, (..., 4).
        weights: factors on the four offsets, which balance them in the loss.
    """
    (bx, by, bw, bh), (ax, ay, aw, ah) = _centre_size(boxes), _centre_size(anchors)
    wx, wy, ww, wh = weights
    offsets = (
        wx * (bx - ax) / aw, wy * (by - ay) / ah, ww * (bw / aw).log(), wh * (bh / ah).log(),
    )  # fmt: skip
    return torch.stack(offsets, dim=-1)


def decode_boxes(
    deltas: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)
) -> Tensor:
    """Boxes (..., 4) xyxy to which offsets (..., 4) lead from anchors (..., 4)."""
    ax, ay, aw, ah = _centre_size(anchors)
    dx, dy, dw, dh = (deltas / deltas.new_tensor(list(weights))).unbind(-1)
    cx, cy = dx * aw + ax, dy * ah + ay
    w = dw.clamp(max=MAX_LOG_SCALE).exp() * aw
    h = dh.clamp(max=MAX_LOG_SCALE).exp() * ah
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x0, y0, x1, y1 = boxes.unbind(-1)
    w, h = x1 - x0, y1 - y0
    return x0 + w / 2, y0 + h / 2, w, h
