"""Attention over a sequence of tokens, the own one or another.

Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762

B batch · N tokens · M tokens looked at · D embedding · H heads
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
           **options: Any) -> Tensor:
    """Scaled dot-product attention, by the way that is fastest on the device.

    On CPUs the backward pass in bfloat16 takes longer than in float32 while heads and sequences
    are small; these are attended to in float32 and given back as they came. Values
    that are longer than keys have no fused kernel there.

    Args:
        query: (B, H, N, E).
        key: (B, H, M, E).
        value: (B, H, M, F), mostly with F = E.
        attn_mask: see ``torch.nn.functional.scaled_dot_product_attention``; values (not truth)
            must leave every query a key.
        options: the other ones of that function.

    Returns:
        (B, H, N, F).
    """
    if (query.device.type == 'cpu' and value.shape[-1] != key.shape[-1] and not options
            and attn_mask is not None and attn_mask.is_floating_point()):
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        logits.add_(attn_mask)
        del attn_mask  # as large as the logits
        return logits.softmax(-1).to(value.dtype) @ value
    dtype = query.dtype
    if query.device.type == 'cpu' and torch.is_autocast_enabled('cpu'):
        dtype = torch.get_autocast_dtype('cpu')
    if not _trains_slowly(query, key, dtype):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    with torch.autocast('cpu', enabled=False):
        return F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=attn_mask, **options).to(dtype)


def _trains_slowly(query: Tensor, key: Tensor, dtype: torch.dtype) -> bool:
    head_dim, num_keys = query.shape[-1], key.shape[-2]
    return (query.device.type == 'cpu' and torch.is_grad_enabled()
            and dtype in (torch.bfloat16, torch.float16)
            and not torch.compiler.is_compiling()
            and head_dim <= 64 and head_dim * num_keys < 2**14)


class Attention(nn.Module):
    """Multi-head self-attention; the fused kernels of torch compute it.

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads, a divisor of ``embed_dim``.
        qkv_bias: add a bias to queries, keys and values.
        attention_dropout: probability to drop an attention weight in training.
        dropout: probability to drop an output in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, qkv_bias: bool = True,
                 attention_dropout: float = 0.0, dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f'embed_dim={embed_dim} cannot be split over num_heads={num_heads}')
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let every token look at the others.

        Args:
            x: tokens, (B, N, D).
            mask: True where a token may look, or values to add to the logits; any shape that
                broadcasts to (B, H, N, N) from at least two dimensions.
        """
        B, N, D = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attention_dropout if self.training else 0.0
        x = attend(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.dropout(self.proj(x.transpose(1, 2).reshape(B, N, D)))


class CrossAttention(nn.Module):
    """Multi-head attention whose queries, keys and values may differ.

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads, a divisor of ``embed_dim``.
        attention_dropout: probability to drop an attention weight in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, attention_dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f'embed_dim={embed_dim} cannot be split over num_heads={num_heads}')
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor,
                mask: Tensor | None = None) -> Tensor:
        """Let every query look at the keys and gather their values.

        Args:
            query: (B, N, D).
            key: (B, M, D).
            value: (B, M, D).
            mask: True where a query may look; broadcasts to (B, H, N, M).

        Returns:
            (B, N, D).
        """
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        dropout = self.attention_dropout if self.training else 0.0
        x = attend(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.proj(x.transpose(1, 2).flatten(-2))
