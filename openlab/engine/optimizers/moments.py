"""Running means of gradients and of their squares, as Adam and its kin keep them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def by_step(optimizer: Optimizer, params: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """Count a step of each parameter; yield those that are at the same one.

    Parameters that got their first gradient later are at an earlier step, and their means are
    corrected by its number.

    Args:
        optimizer: whose ``state`` holds ``step``, ``mean`` and ``mean_square``; made here if new.
        params: parameters that have a gradient.
    """
    members: dict[int, list[Tensor]] = {}
    for parameter in params:
        state = optimizer.state[parameter]
        if not state:
            # On the CPU, where reading it does not wait for the device.
            state['step'] = torch.tensor(0.0)
            state['mean'] = torch.zeros_like(parameter)
            state['mean_square'] = torch.zeros_like(parameter)
        state['step'] += 1
        members.setdefault(int(state['step']), []).append(parameter)
    yield from members.items()


def update_moments(
    optimizer: Optimizer, params: Sequence[Tensor], betas: tuple[float, float],
) -> tuple[list[Tensor], list[Tensor]]:
    """Take the gradients into the running means.

    Returns:
        The means of gradients and those of their squares: the optimizer's own, not to be changed.
    """
    beta1, beta2 = betas
    grads: list[Any] = [p.grad for p in params]
    means = [optimizer.state[p]['mean'] for p in params]
    squares = [optimizer.state[p]['mean_square'] for p in params]
    torch._foreach_lerp_(means, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    return means, squares
