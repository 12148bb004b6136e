"""Root-mean-square normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
class RMSNorm(nn.Module):
    """Scale each vector to unit root mean square, then by a learned gain.

    Paper: Root Mean Square Layer Normalization, https://arxiv.org/abs/1910.07467 (eq. 4).

    Args:
        dim: length D of the last axis.
        eps: added to the mean square, against division by zero.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of ``x``, (..., D) to (..., D), in the input's dtype."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
