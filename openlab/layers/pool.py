"""Turn a map into one vector."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class GlobalPool(nn.Module):
    """Pool a map (B, C, H, W) to (B, C); a vector (B, C) passes through.

    Args:
        mode: mean or maximum over all positions.
    """

    def __init__(self, mode: Literal['mean', 'max'] = 'mean'):
        super().__init__()
        if mode not in ('mean', 'max'):
            raise ValueError(f"GlobalPool knows the modes 'mean' and 'max', not {mode!r}")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """Pool all dimensions after the second."""
        if x.ndim == 2:
            return x
        return x.flatten(2).mean(2) if self.mode == 'mean' else x.flatten(2).amax(2)
