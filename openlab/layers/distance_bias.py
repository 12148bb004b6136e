"""Attention on a map that is biased by how far, along each axis, a key lies from a query.

Graham et al., LeViT, https://arxiv.org/abs/2104.01136, section 4.4

B batch · C channels · h heads · H, W height and width of a map · N keys, H W · M queries
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.attention import attend
from openlab.layers.window import bias_of_pairs


class DistanceBias(nn.Module):
    """One learned number for each head and each distance (rows, columns).

    On a map of another size the table is interpolated: what was learned for the furthest key then
    holds for the furthest key.

    Args:
        num_heads: number of heads (h).
        grid: (H, W) that distances are learned for.
        stride: step between two queries; keys are everywhere.
    """

    index: Tensor

    def __init__(self, num_heads: int, grid: tuple[int, int], stride: int = 1):
        super().__init__()
        self.grid, self.stride = grid, stride
        self.table = nn.Parameter(torch.zeros(num_heads, grid[0] * grid[1]))
        self.register_buffer('index', distance_index(grid, stride), persistent=False)
        self.register_load_state_dict_pre_hook(_fit_table)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Bias (h, M, N) of a map of ``grid``."""
        if grid == self.grid:
            return bias_of_pairs(self.table, self.index)
        table = resize_distance_table(self.table, self.grid, grid)
        return bias_of_pairs(table, distance_index(grid, self.stride, table.device))


class DistanceAttention(nn.Module):
    """Multi-head self-attention on a map, with a ``DistanceBias``.

    Args:
        in_dim: size of a token that comes in, and goes out (C).
        key_dim: size of a query and of a key.
        num_heads: number of heads (h).
        value_ratio: size of a value over ``key_dim``.
        grid: see ``DistanceBias``.
    """

    def __init__(self, in_dim: int, key_dim: int, num_heads: int, value_ratio: float,
                 grid: tuple[int, int]):
        super().__init__()
        self.num_heads = num_heads
        self.sizes = (key_dim, key_dim, int(value_ratio * key_dim))
        self.qkv = nn.Linear(in_dim, num_heads * sum(self.sizes))
        self.proj = nn.Linear(num_heads * self.sizes[2], in_dim)
        self.bias = DistanceBias(num_heads, grid)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix tokens (B, N, C) of a map of ``grid``."""
        q, k, v = self.qkv(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2).split(
            self.sizes, dim=-1)
        bias = self.bias(grid)[None].to(q.dtype)
        x = attend(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).flatten(2))


def distance_index(grid: tuple[int, int], stride: int = 1,
                   device: torch.device | None = None) -> Tensor:
    """Number of the distance of each key from each query, rows first, (M, N)."""
    gaps = []
    for length in grid:
        key = torch.arange(length, device=device)
        gaps.append((key[::stride, None] - key[None, :]).abs())
    index = gaps[0][:, None, :, None] * grid[1] + gaps[1][None, :, None, :]
    return index.flatten(2).flatten(0, 1)


def resize_distance_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate numbers (h, H W) of the distances on one map for those on another."""
    resized = F.interpolate(table.float().unflatten(1, old)[None], new, mode='bicubic',
                            align_corners=False)
    return resized[0].flatten(1).to(table.dtype)


def _fit_table(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate the table of another (square) map when weights are loaded."""
    assert isinstance(module, DistanceBias)
    table = state.get(f'{prefix}table')
    if table is None or table.shape == module.table.shape:
        return
    side = math.isqrt(table.shape[1])
    if side * side == table.shape[1]:
        state[f'{prefix}table'] = resize_distance_table(table, (side, side), module.grid)
