"""Batches of all processes, for losses that compare items with each other.

W processes · B items of this process · D size of an item
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes share the work; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if num_processes() > 1 else 0


def gather_batches(x: Tensor) -> Tensor:
    """Join the batches of all processes in the order of their ranks; gradients flow back.

    An item takes part in the losses of all processes, and gets the sum of their gradients. Where
    gradients of parameters are then averaged over processes (DDP), the result is the gradient of
    the mean of their losses.

    Args:
        x: (B, ...), the same shape in every process.

    Returns:
        (W B, ...).
    """
    return _Gather.apply(x) if num_processes() > 1 else x  # type: ignore[no-any-return]


@torch.no_grad()
def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of ``x`` over all processes, in a new tensor without gradient."""
    total = x.detach().clone()
    if num_processes() > 1:
        dist.all_reduce(total)
    return total / num_processes()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(num_processes())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(num_processes())[process_rank()]
