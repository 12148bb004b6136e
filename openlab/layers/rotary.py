"""Rotary position embedding: positions as rotations of query and key.

B batch · T tokens · H heads · E dimension of one head
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Angles of every position, computed once, and the rotation itself.

    Paper: RoFormer, https://arxiv.org/abs/2104.09864 (section 3.2.2). Dimension ``i`` is paired
    with ``i + E / 2``, as in the public LLaMA weights, not with its neighbour as in the paper;
    the two differ by a fixed permutation of the query and key rows.

    Args:
        head_dim: E, even.
        context_length: the number of positions that have angles.
        base: the longest wavelength is about ``2 * pi * base``.
        scaling: ``None``, ``{'kind': 'linear', 'factor': f}`` (positions divided by f) or
            ``{'kind': 'llama3', 'factor', 'low_freq_factor', 'high_freq_factor',
            'original_context_length'}`` (only long wavelengths are stretched; Llama 3.1).
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_dim: int,
        context_length: int,
        base: float = 10_000.0,
        scaling: dict[str, Any] | None = None,
    ):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f'rotary embedding pairs dimensions; head_dim={head_dim} is odd')
        self.head_dim, self.context_length = head_dim, context_length
        self.base, self.scaling = base, scaling
        self.register_buffer('cos', torch.empty(context_length, head_dim), persistent=False)
        self.register_buffer('sin', torch.empty(context_length, head_dim), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Compute the tables; call it after ``to_empty`` has left them undefined."""
        E, device = self.head_dim, self.cos.device
        index = torch.arange(0, E, 2, dtype=torch.float32, device=device)
        frequency = self.base ** (-index / E)
        if self.scaling is not None:
            frequency = _scale_frequency(frequency, **self.scaling)
        position = torch.arange(self.context_length, dtype=torch.float32, device=device)
        angle = torch.outer(position, frequency).repeat(1, 2)
        self.cos.copy_(angle.cos())
        # The sign of the rotation's off-diagonal is folded in, so that no negation runs per token.
        self.sin.copy_(angle.sin())
        self.sin[:, : E // 2].neg_()

    def angles(self, positions: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine, each (T, E) for a slice or (B, 1, T, E) for (B, T) positions."""
        cos, sin = self.cos[positions], self.sin[positions]
        if isinstance(positions, Tensor) and positions.dim() == 2:
            return cos.unsqueeze(1), sin.unsqueeze(1)
        return cos, sin

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate ``x``, (B, H, T, E), by the angles of its positions."""
        cos, sin = (table.to(x.dtype) for table in angles)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            half = x.shape[-1] // 2
            swapped = torch.cat([x[..., half:], x[..., :half]], dim=-1)
            return x * cos + swapped * sin
        if x.requires_grad and torch.is_grad_enabled():
            rotated: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
            return rotated
        return _rotate(x, cos, sin, 1)


class _Rotation(torch.autograd.Function):
    """The gradient of a rotation is the rotation back; nothing but the angles need be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad_output, cos, sin, -1), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    if x.shape[-2] == 1:  # a token at a time, launches cost more than passes
        return out.addcmul_(x.roll(half, -1), sin, value=direction)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=direction)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return out


def _scale_frequency(frequency: Tensor, kind: str, factor: float, **options: float) -> Tensor:
    if kind == 'linear':
        return frequency / factor
    if kind != 'llama3':
        raise ValueError(f"scaling kind must be 'linear' or 'llama3', not {kind!r}")
    turns = frequency * options['original_context_length'] / (2 * math.pi)
    low, high = options['low_freq_factor'], options['high_freq_factor']
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency * (keep + (1 - keep) / factor)
