"""Binary masks: as arrays, polygons and run lengths.

N number of masks · H, W image height and width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def flip_masks(masks: Tensor, direction: str = 'horizontal') -> Tensor:
    """Mirror masks (..., H, W): ``horizontal``, ``vertical`` or ``both``."""
    axes = {'horizontal': (-1,), 'vertical': (-2,), 'both': (-2, -1)}
    if direction not in axes:
        raise ValueError(f'direction must be one of {", ".join(axes)}, got {direction!r}')
    return masks.flip(axes[direction])


def crop_masks(masks: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Cut out (top, left, height, width) of (..., H, W); zeros where it reaches outside."""
    top, left, height, width = window
    h, w = masks.shape[-2:]
    inside = masks[..., max(top, 0):max(top + height, 0), max(left, 0):max(left + width, 0)]
    before = max(-left, 0), max(-top, 0)
    return functional.pad(inside, (before[0], width - before[0] - inside.shape[-1],
                                   before[1], height - before[1] - inside.shape[-2])) \
        if inside.shape[-2:] != (height, width) or (h, w) == (0, 0) else inside


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, H, W) to ``size`` (H, W) by the nearest pixel."""
    if not len(masks):
        return masks.new_zeros((0, *size))
    resized = functional.interpolate(masks[:, None].float(), size, mode='nearest-exact')
    return resized[:, 0].to(masks.dtype)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tightest box around each mask (N, H, W), (N, 4) xyxy; zeros for empty masks."""
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    for box, mask in zip(boxes, masks.bool()):
        columns, rows = mask.any(0).nonzero(), mask.any(1).nonzero()
        if len(rows):
            edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            box[:] = torch.stack([e[0] for e in edges]).float()
    return boxes


def polygons_to_mask(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Fill polygons, each ``[x0, y0, x1, y1, ...]``, and take their union.

    A pixel belongs to a polygon if its centre does; COCO's own filling takes up to a pixel more
    along the border.

    Returns:
        (H, W) uint8 of 0 and 1.
    """
    height, width = size
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if len(points) < 3:
            raise ValueError(f'a polygon needs at least three points, got {list(polygon)}')
        mask |= _fill_polygon(points, height, width)
    return mask.astype(np.uint8)


def _fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Even-odd rule: a centre is inside where an odd number of edges lies left of it."""
    x1, y1 = points.T
    x2, y2 = np.roll(points, -1, axis=0).T
    # An edge crosses the centres of the rows from its upper end to before its lower one.
    first = np.clip(np.ceil(np.minimum(y1, y2) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y1, y2) - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(points)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    x = x1[edge] + (row + 0.5 - y1[edge]) * (x2[edge] - x1[edge]) / (y2[edge] - y1[edge])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    inside = crossings.reshape(height, width + 1)[:, :width].cumsum(axis=1) % 2
    return inside.astype(bool)


def mask_to_polygons(mask: np.ndarray) -> list[list[float]] | None:
    """Outlines along the edges of pixels; ``polygons_to_mask`` gives the same mask again.

    Args:
        mask: (H, W) of 0 and 1.

    Returns:
        ``[x0, y0, x1, y1, ...]`` for each part (touching corners do not join parts), or ``None``
        where the mask has a hole, which a union of polygons cannot tell.
    """
    rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(np.asarray(mask[top:rows[-1] + 1, left:columns[-1] + 1], dtype=bool), 1)
    # Edges of pixels, each directed so that the mask lies on its right, by direction.
    core = inside[1:-1, 1:-1]
    sides = [(core & ~inside[:-2, 1:-1], (0, 0)), (core & ~inside[1:-1, 2:], (0, 1)),
             (core & ~inside[2:, 1:-1], (1, 1)), (core & ~inside[1:-1, :-2], (1, 0))]
    ways = ((0, 1), (1, 0), (0, -1), (-1, 0))
    starts: dict[tuple[int, int], list[int]] = {}
    for way, (edge, (down, right)) in enumerate(sides):
        rows, columns = np.nonzero(edge)
        for start in zip((rows + (top + down)).tolist(), (columns + (left + right)).tolist()):
            starts.setdefault(start, []).append(way)
    polygons = []
    while starts:
        loop = _trace(starts, ways)
        points = np.array(loop, dtype=np.float64)[:, ::-1]
        x, y = points.T
        if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0:
            return None
        polygons.append(points.ravel().tolist())
    return polygons


def _trace(starts: dict[tuple[int, int], list[int]],
           ways: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Follow edges round one part, taking them out; corners (row, column) in order."""
    first = place = next(iter(starts))
    way = -1
    corners: list[tuple[int, int]] = []
    while place in starts:
        leaving = starts[place]
        # Where two parts touch, turning right stays with the own one.
        following = (way + 1) % 4 if len(leaving) > 1 and (way + 1) % 4 in leaving else leaving[0]
        leaving.remove(following)
        if not leaving:
            del starts[place]
        if following != way:
            corners.append(place)
        way = following
        place = place[0] + ways[way][0], place[1] + ways[way][1]
        if place == first and (place not in starts or (way + 1) % 4 not in starts[place]):
            break
    return corners


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths down the columns, as COCO writes them (uncompressed).

    Returns:
        ``{'size': [H, W], 'counts': [zeros, ones, zeros, ...]}``.
    """
    flat = np.asarray(mask, dtype=bool).ravel(order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat.size and flat[0]:
        counts = [0, *counts]
    return {'size': list(mask.shape), 'counts': counts}


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """Run lengths (a list, or COCO's compressed string) to (H, W) uint8 of 0 and 1.

    Raises:
        ValueError: if the runs do not fill the size.
    """
    height, width = rle['size']
    counts = rle['counts']
    if isinstance(counts, (str, bytes)):
        counts = _decompress(counts.encode() if isinstance(counts, str) else counts)
    if sum(counts) != height * width:
        raise ValueError(f'run lengths add up to {sum(counts)}, but the mask has {height} x '
                         f'{width} = {height * width} pixels')
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).astype(np.uint8).reshape((height, width), order='F')


def compress_rle(rle: dict[str, Any]) -> dict[str, Any]:
    """Run lengths as COCO's short text, which is what most files hold."""
    counts, text = rle['counts'], []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr((bits | (32 if more else 0)) + 48))
    return {'size': list(rle['size']), 'counts': ''.join(text)}


def _decompress(data: bytes) -> list[int]:
    """COCO's text form: five bits a character, the sixth says that more follow.

    From the fourth run on, the difference to the run before the previous one is stored.
    """
    counts: list[int] = []
    place = 0
    while place < len(data):
        value, shift, more = 0, 0, True
        while more:
            bits = data[place] - 48
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            place += 1
            shift += 5
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
