"""A second network whose weights follow those of the one in training, slowly.

He et al., Momentum Contrast, https://arxiv.org/abs/1911.05722, equation 2.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from openlab.layers.drop import DropPath


def make_follower(leader: nn.Module) -> nn.Module:
    """A copy that gets no gradient and drops nothing out; batch norms keep their own counts."""
    follower = copy.deepcopy(leader).requires_grad_(False)
    for module in follower.modules():
        if isinstance(module, DropPath):
            module.prob = 0.0
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return follower


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Move every parameter: ``follower = momentum * follower + (1 - momentum) * leader``.

    Buffers stay: batch norms of both networks see the data themselves.
    """
    own = [_local(p) for p in follower.parameters()]
    others = [_local(p) for p in leader.parameters()]
    torch._foreach_lerp_(own, others, 1 - momentum)


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    to_local = getattr(tensor, 'to_local', None)
    return tensor.detach() if to_local is None else to_local().detach()
