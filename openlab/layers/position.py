"""Learned positions on a grid, and how they follow another size of image.

D embedding · h, w rows and columns of patches
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_position(position: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int],
                    num_prefix: int = 0) -> Tensor:
    """Interpolate the embeddings of a grid of positions for another grid.

    Args:
        position: (1, num_prefix + h w, D).
        old_grid: (h, w) that ``position`` is made for.
        new_grid: (h, w) wanted.
        num_prefix: leading embeddings that belong to no place (class token) and stay.

    Returns:
        (1, num_prefix + h w, D) for the new grid.
    """
    count = num_prefix + old_grid[0] * old_grid[1]
    if position.shape[1] != count:
        raise ValueError(f'{position.shape[1]} positions cannot be {num_prefix} and a grid of '
                         f'{old_grid[0]} x {old_grid[1]} ({count} in all)')
    if old_grid == new_grid:
        return position
    prefix, grid = position[:, :num_prefix], position[:, num_prefix:]
    grid = grid.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, new_grid, mode='bicubic', antialias=True)
    grid = grid.flatten(2).transpose(1, 2).to(position.dtype)
    return torch.cat([prefix, grid], dim=1)
