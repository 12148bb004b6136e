"""Attention to a few points of several maps.

Paper: Deformable DETR, https://arxiv.org/abs/2010.04159 (section 4.1).

B batch · Q queries · H heads · L levels · P points · D embedding · C channels of a head ·
h, w size of a level · M places of all levels
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]


def multi_scale_deformable_attention(
    values: Tensor, sizes: Sequence[Size], points: Tensor, weights: Tensor
) -> Tensor:
    """Look up values at points of every level and add them up.

    Args:
        values: places of all levels, row by row, (B, M, H, C).
        sizes: (h, w) of each level; their products add up to M.
        points: x and y as shares of a level's width and height, (B, Q, H, L, P, 2); what lies
            outside is zero.
        weights: of each point, (B, Q, H, L, P).

    Returns:
        (B, Q, H C).
    """
    B, _, H, C = values.shape
    Q = points.shape[1]
    levels = values.split([h * w for h, w in sizes], dim=1)
    total = values.new_zeros(B * H, C, Q)
    for i, ((h, w), level) in enumerate(zip(sizes, levels, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(B * H, C, h, w)
        grid = (2 * points[:, :, :, i] - 1).transpose(1, 2).flatten(0, 1)
        found = F.grid_sample(maps, grid.to(maps.dtype), align_corners=False)
        share = weights[:, :, :, i].transpose(1, 2).flatten(0, 1)
        total = total + torch.einsum('bcqp,bqp->bcq', found, share)
    return total.view(B, H * C, Q).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at a few learned points around its own place, on every level.

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads (H), a divisor of ``embed_dim``.
        num_levels: number of maps (L).
        num_points: points of each head on each level (P).
    """

    def __init__(self, embed_dim: int, num_heads: int = 8, num_levels: int = 3,
                 num_points: int = 4):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f'embed_dim={embed_dim} cannot be split over num_heads={num_heads}')
        self.shape = num_heads, num_levels, num_points
        count = num_heads * num_levels * num_points
        self.offsets = nn.Linear(embed_dim, 2 * count)
        self.point_weights = nn.Linear(embed_dim, count)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self._init_weights()

    def forward(self, query: Tensor, values: Tensor, sizes: Sequence[Size],
                places: Tensor) -> Tensor:
        """Gather values around the places of the queries.

        Args:
            query: (B, Q, D).
            values: places of all levels, row by row, (B, M, D).
            sizes: (h, w) of each level.
            places: x and y of each query as shares of the image, (Q, 2).

        Returns:
            (B, Q, D).
        """
        H, L, P = self.shape
        offsets = self.offsets(query).unflatten(-1, (H, L, P, 2))
        weights = self.point_weights(query).unflatten(-1, (H, L * P)).softmax(-1)
        extent = torch.tensor([[w, h] for h, w in sizes], device=query.device, dtype=query.dtype)
        points = places[:, None, None, None] + offsets / extent[:, None]
        values = self.v_proj(values).unflatten(-1, (H, -1))
        weights = weights.unflatten(-1, (L, P))
        return self.proj(multi_scale_deformable_attention(values, sizes, points, weights))

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Point p of head i begins p + 1 steps away in the head's own direction, all alike."""
        H, L, P = self.shape
        angle = torch.arange(H) * (2 * math.pi / H)
        way = torch.stack([angle.cos(), angle.sin()], -1)
        way = way / way.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, P + 1)[:, None]
        self.offsets.bias.copy_((way[:, None, None] * steps).expand(H, L, P, 2).flatten())
        for layer in (self.offsets, self.point_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.point_weights.bias)
        for layer in (self.v_proj, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def grid_places(sizes: Sequence[Size], device: torch.device | None = None) -> Tensor:
    """Centres of the pixels of every level, row by row, x and y as shares, (M, 2)."""
    places = []
    for h, w in sizes:
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        grid = torch.meshgrid(y, x, indexing='ij')
        places.append(torch.stack([grid[1], grid[0]], -1).flatten(0, 1))
    return torch.cat(places)
