"""Stochastic depth: leave out whole residual branches while training.

Huang et al., Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Set a residual branch to zero for a random part of the samples of a batch.

    What is kept is scaled up, so that the expected value stays.

    Args:
        prob: probability that a sample loses the branch, in [0, 1).
    """

    def __init__(self, prob: float = 0.0):
        super().__init__()
        if not 0 <= prob < 1:
            raise ValueError(f'DropPath needs 0 <= prob < 1, not {prob}')
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x``, (B, ...), in training; pass it through otherwise."""
        if self.prob == 0 or not self.training:
            return x
        keep = 1 - self.prob
        mask = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the probability in the printed model."""
        return f'prob={self.prob:.3g}'


def drop_path_probs(last: float, num_blocks: int) -> list[float]:
    """Probabilities that rise linearly with depth from 0 to ``last``, one for each block."""
    return [last * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
