"""The block that vision transformers are made of.

B batch · N tokens · D embedding
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.act import make_act
from openlab.layers.attention import Attention
from openlab.layers.drop import DropPath
from openlab.layers.norm import make_norm


class MLP(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        in_dim: size of a token that comes in.
        hidden_dim: size between the layers.
        dropout: probability to drop an output of either layer in training.
        act: see ``make_act``; by default GELU.
        out_dim: size of a token that goes out; by default ``in_dim``.
    """

    def __init__(self, in_dim: int, hidden_dim: int, dropout: float = 0.0,
                 act: dict[str, Any] | None = None, out_dim: int | None = None):
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.act = make_act(act or {'type': nn.GELU})
        self.fc2 = nn.Linear(hidden_dim, out_dim or in_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))


class GatedMLP(nn.Module):
    """An MLP whose hidden values are gated by SiLU of as many others (SwiGLU).

    Shazeer, GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202 (eq. 6).

    Args:
        in_dim: size of a token that comes in, and goes out.
        hidden_dim: size after gating; the first layer makes twice as many values, gates first.
        dropout: probability to drop an output of either layer in training.
        norm: normalises the gated values, see ``make_norm``; ``None`` does without.
    """

    def __init__(self, in_dim: int, hidden_dim: int, dropout: float = 0.0,
                 norm: dict[str, Any] | None = None):
        super().__init__()
        self.fc1 = nn.Linear(in_dim, 2 * hidden_dim)
        self.norm = make_norm(hidden_dim, norm) if norm else nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, in_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to the same shape."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        hidden = self.dropout(F.silu(gate) * value)
        return self.dropout(self.fc2(self.norm(hidden)))


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each behind its norm and with a residual around it.

    Args:
        embed_dim: size of a token (D).
        num_heads: heads of the attention.
        mlp_ratio: hidden size of the MLP over ``embed_dim``.
        qkv_bias: add a bias to queries, keys and values.
        attention_dropout: probability to drop an attention weight in training.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to leave out each of the two branches in training.
        layer_scale: first value of a learned scale for each channel of both branches; ``None``
            does without.
        norm: see ``make_norm``; by default ``nn.LayerNorm`` with eps 1e-6.
        act: see ``make_act``; by default GELU.
        with_gated_mlp: take a ``GatedMLP`` with two thirds of the hidden size, rounded up to a
            multiple of 8, which leaves the number of parameters about the same.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        with_gated_mlp: bool = False,
    ):
        super().__init__()
        norm = norm or {'type': nn.LayerNorm, 'eps': 1e-6}
        self.norm1 = make_norm(embed_dim, norm)
        self.attn = Attention(embed_dim, num_heads, qkv_bias, attention_dropout, dropout)
        self.scale1 = LayerScale(embed_dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = make_norm(embed_dim, norm)
        hidden_dim = int(embed_dim * mlp_ratio)
        if with_gated_mlp:
            self.mlp: nn.Module = GatedMLP(embed_dim, (hidden_dim * 2 // 3 + 7) // 8 * 8, dropout)
        else:
            self.mlp = MLP(embed_dim, hidden_dim, dropout, act)
        self.scale2 = LayerScale(embed_dim, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to the same shape; ``mask`` as in ``Attention``."""
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x), mask)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class LayerScale(nn.Module):
    """Learned factor of each channel, small at first (https://arxiv.org/abs/2103.17239).

    Args:
        embed_dim: number of channels.
        value: all factors before training.
    """

    def __init__(self, embed_dim: int, value: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension."""
        return x * self.gamma
