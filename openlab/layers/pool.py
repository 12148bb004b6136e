"""Turn a map into one vector, or into a smaller map."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
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


@MODELS.register_module()
class GeMPool(nn.Module):
    """Generalised mean of a map (B, C, H, W), (B, C): (mean of x^p)^(1/p) of each channel.

    Paper: Fine-tuning CNN Image Retrieval with No Human Annotation,
    https://arxiv.org/abs/1711.02512 (eq. 3). p = 1 is the mean, and the maximum is reached as p
    grows. Negative values count as ``eps``. A vector (B, C) passes through.

    Args:
        p: first value of the exponent.
        eps: smallest value that is raised to the power.
        trainable: learn p.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6, trainable: bool = True):
        super().__init__()
        if p <= 0 or eps <= 0:
            raise ValueError(f'p and eps must be positive, got {p} and {eps}')
        self.p = nn.Parameter(torch.tensor(float(p)), requires_grad=trainable)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Pool all dimensions after the second."""
        if x.ndim == 2:
            return x
        p = self.p.float()
        return x.flatten(2).float().clamp(min=self.eps).pow(p).mean(2).pow(1 / p).to(x.dtype)


class BlurPool2d(nn.Module):
    """Take every n-th place of a map that was smoothed by 3 x 3 binomial weights first.

    Zhang, Making Convolutional Networks Shift-Invariant Again, https://arxiv.org/abs/1904.11486.
    Around the map there are zeros.

    Args:
        stride: step between two places.
    """

    kernel: Tensor

    def __init__(self, stride: int = 2):
        super().__init__()
        self.stride = stride
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer('kernel', torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / stride, W / stride), sizes rounded up."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=1, groups=channels)
