"""Positions on a grid: learned ones that follow another size of image, and waves.

B batch · D embedding · h, w rows and columns of patches
"""

from __future__ import annotations

import math

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


def resize_square_position(position: Tensor, grid: tuple[int, int],
                           num_prefix: int = 0) -> Tensor:
    """Interpolate embeddings of an unknown square grid, as weights hold them, for ``grid``.

    Args:
        position: (1, num_prefix + side^2, D); where it fits already, or is of no square grid, it
            comes back as it is.
        grid: (h, w) wanted.
        num_prefix: leading embeddings that belong to no place (class token) and stay.

    Returns:
        (1, num_prefix + h w, D), or ``position``.
    """
    count = position.shape[1] - num_prefix
    side = math.isqrt(max(count, 0))
    if count == grid[0] * grid[1] or side * side != count:
        return position
    return resize_position(position, (side, side), grid, num_prefix)


def sine_position(valid: Tensor, embed_dim: int, temperature: float = 10000.0) -> Tensor:
    """Waves of falling frequency along y, then along x (DETR, appendix A.4).

    A place counts as the share of the valid rows (columns) up to it, so that padding moves nothing.

    Args:
        valid: False where the map is padding, (B, h, w).
        embed_dim: D, a multiple of 4.
        temperature: of the slowest wave's period.

    Returns:
        (B, D, h, w) float32.
    """
    if embed_dim % 4:
        raise ValueError(f'sine_position needs an embed_dim that 4 divides, not {embed_dim}')
    half = embed_dim // 2
    exponent = torch.arange(0, half, 2, device=valid.device, dtype=torch.float32) / half
    period = temperature**exponent
    waves = []
    for axis in (1, 2):
        count = valid.float().cumsum(axis)
        total = count.narrow(axis, count.shape[axis] - 1, 1)
        # the small number, which keeps empty lines from 0 / 0, is that of published weights
        angle = (2 * math.pi * count / (total + 1e-6))[..., None] / period
        waves.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2))
    return torch.cat(waves, dim=-1).permute(0, 3, 1, 2)


def grid_position(grid: tuple[int, int], embed_dim: int, num_prefix: int = 0,
                  temperature: float = 10000.0) -> Tensor:
    """Waves of falling frequency for the places of a grid: sines and cosines of x, then of y.

    He et al., MAE, https://arxiv.org/abs/2111.06377, appendix A.1, as in the published weights.

    Args:
        grid: (h, w).
        embed_dim: D, a multiple of 4.
        num_prefix: leading zeros for tokens that belong to no place.
        temperature: of the slowest wave's period.

    Returns:
        (1, num_prefix + h w, D) float32.
    """
    if embed_dim % 4:
        raise ValueError(f'grid_position needs an embed_dim that 4 divides, not {embed_dim}')
    exponent = torch.arange(embed_dim // 4, dtype=torch.float64) / (embed_dim // 4)
    frequency = temperature**-exponent
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing='ij')
    waves = []
    for axis in (x, y):
        angle = axis.flatten().double()[:, None] * frequency
        waves += [angle.sin(), angle.cos()]
    return F.pad(torch.cat(waves, dim=1), (0, 0, num_prefix, 0))[None].float()
