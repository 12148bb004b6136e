"""Pooling by attention: a learned query asks all places.

B batch · N tokens · D embedding · h, w size of a map
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.attention import attend
from openlab.layers.norm import make_norm
from openlab.layers.transformer import MLP
from openlab.registry import MODELS


@MODELS.register_module()
class AttentionPool(nn.Module):
    """Tokens to one vector by a learned query, then an MLP with a residual around it.

    Zhai et al., Scaling Vision Transformers, https://arxiv.org/abs/2106.04560, section 3.2

    Args:
        embed_dim: size of a token (D), or channels of a map.
        num_heads: heads of the attention.
        mlp_ratio: hidden size of the MLP over ``embed_dim``.
        norm: see ``make_norm``; by default ``nn.LayerNorm`` with eps 1e-6.
        act: see ``make_act``; by default GELU.
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float = 4.0,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.probe = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.normal_(self.probe, std=0.02)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.norm = make_norm(embed_dim, norm or {'type': nn.LayerNorm, 'eps': 1e-6})
        self.mlp = MLP(embed_dim, int(embed_dim * mlp_ratio), act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Pool tokens (B, N, D), or a map (B, D, h, w), to (B, D)."""
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        sources = (self.probe.expand(len(x), -1, -1), x, x)
        q, k, v = (F.linear(s, w, b).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
                   for s, w, b in zip(sources, weights, biases))
        pooled = attend(q, k, v).transpose(1, 2).flatten(2)
        pooled = self.proj(pooled).squeeze(1)
        return pooled + self.mlp(self.norm(pooled))
