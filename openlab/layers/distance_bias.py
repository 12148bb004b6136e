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

    Looking up takes a share of the time of a small network, so that ``eval()`` does it once for
    all. Weights that change in evaluation mode are noticed, but not by compiled code: that needs
    another ``eval()`` then.

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
        self.register_load_state_dict_post_hook(_look_up_again)
        self._known: Tensor | None = None
        self._known_of: tuple[int, int] | None = None

    def train(self, mode: bool = True) -> DistanceBias:
        """Look all biases up for evaluation; training looks them up anew each time."""
        super().train(mode)
        self._known = self._known_of = None
        # Sharded tables are whole within forward only, others are no parameters but stand in.
        if not mode and type(self.table) is nn.Parameter and not self.table.is_inference():
            with torch.inference_mode(False), torch.no_grad():
                self._known = bias_of_pairs(self.table, self.index)
            self._known_of = _state_of(self.table)
        return self

    def _is_known(self) -> bool:
        if self._known is None or torch.is_grad_enabled() or torch.jit.is_tracing():
            return False
        if type(self.table) is not nn.Parameter:
            return False
        if torch.compiler.is_compiling():
            return (not torch.compiler.is_exporting() and self._known.dtype == self.table.dtype
                    and self._known.device == self.table.device)
        return self._known_of == _state_of(self.table)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Bias (h, M, N) of a map of ``grid``."""
        if grid == self.grid:
            if self._is_known():
                assert self._known is not None
                return self._known
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


def _look_up_again(module: nn.Module, *_: Any) -> None:
    """Weights have come in."""
    module.train(module.training)


def _state_of(table: Tensor) -> tuple[int, int]:
    """Changes with the values of a table, and with the memory that they stand in."""
    return table.data_ptr(), table._version


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
