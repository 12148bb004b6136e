"""Windows of a map, within which attention is cheap.

Liu et al., Swin Transformer, https://arxiv.org/abs/2103.14030, section 3.2

B batch · H, W height and width of a map · C channels · S side of a window · n number of windows
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def partition_windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (B, H, W, C) into windows of ``size``, (B n, tokens of a window, C)."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // size[0], size[0], W // size[1], size[1], C)
    return x.transpose(2, 3).reshape(-1, size[0] * size[1], C)


def merge_windows(windows: Tensor, size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Put windows (B n, tokens of a window, C) back into a map (B, H, W, C) of ``shape``."""
    H, W = shape
    x = windows.reshape(-1, H // size[0], W // size[1], size[0], size[1], windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, H, W, windows.shape[-1])


def pad_to_windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (B, H, W, C) with zeros at the right and bottom to whole windows."""
    bottom, right = -x.shape[1] % size[0], -x.shape[2] % size[1]
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def shifted_window_mask(shape: tuple[int, int], size: tuple[int, int], shift: tuple[int, int],
                        device: torch.device) -> Tensor:
    """Which tokens of a window were neighbours before the map was rolled by ``shift``.

    Returns:
        (n, 1, tokens, tokens), 0 where a token may look at another, and minus infinity.
    """
    sides = []
    for length, side, step in zip(shape, size, shift):
        position = torch.arange(length, device=device)
        # Whole windows, the rest of the last one, and what was rolled in from the other side.
        wrapped = (position >= length - step) if step else torch.zeros_like(position).bool()
        sides.append((position >= length - side).long() + wrapped.long() if step
                     else wrapped.long())
    region_HW = 3 * sides[0][:, None] + sides[1][None, :]
    region_nT = partition_windows(region_HW[None, :, :, None], size).squeeze(-1)
    apart = region_nT[:, None, :, None] != region_nT[:, None, None, :]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, float('-inf'))


def relative_position_index(size: tuple[int, int]) -> Tensor:
    """Row of a table of all offsets within a window for each pair of its tokens, (T, T).

    Row 0 is the offset (1 - S, 1 - S) of the first token from the last.
    """
    rows, columns = torch.arange(size[0]), torch.arange(size[1])
    places = torch.cartesian_prod(rows, columns)
    offsets = places[:, None] - places[None, :] + torch.tensor([size[0] - 1, size[1] - 1])
    return offsets[..., 0] * (2 * size[1] - 1) + offsets[..., 1]


def bias_of_pairs(table: Tensor, index: Tensor) -> Tensor:
    """Look up the bias of each pair of tokens.

    One selection along the last axis takes a fraction of the time of ``table[:, index]``.

    Args:
        table: one number for each head and row of the index, (h, N).
        index: (T, S).

    Returns:
        (h, T, S).
    """
    return table.index_select(1, index.flatten()).unflatten(1, index.shape)


def resize_relative_table(table: Tensor, new_size: tuple[int, int]) -> Tensor:
    """Interpolate a table of offsets, ((2 S - 1)^2, heads), for windows of another size."""
    old = round(len(table) ** 0.5)
    if old * old != len(table):
        raise ValueError(f'a table of {len(table)} offsets is not one of a square window')
    new = (2 * new_size[0] - 1, 2 * new_size[1] - 1)
    grid = table.float().T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, new, mode='bicubic', align_corners=False)
    return grid.flatten(2)[0].T.contiguous().to(table.dtype)
