"""Stochastic gradient descent whose steps are as large as the weights they change, layer by layer.

You et al., Large Batch Training of Convolutional Networks, https://arxiv.org/abs/1708.03888.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from openlab.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    """SGD with momentum and a learning rate of each layer's own, for batches of thousands.

    The step of a weight is scaled to ``trust`` times its norm before the learning rate applies.
    As in SimCLR and MoCo v3, biases and parameters of norms (everything with one dimension) take
    plain steps without weight decay.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: share of the last step that goes on.
        weight_decay: added to gradients, times the weight.
        trust: size of a step over that of the weight.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9,
                 weight_decay: float = 0.0, trust: float = 0.001):
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust <= 0:
            raise ValueError(f'LARS needs lr >= 0, momentum in [0, 1), weight_decay >= 0 and '
                             f'trust > 0, got {lr}, {momentum}, {weight_decay} and {trust}')
        super().__init__(params, {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay,
                                  'trust': trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns what ``closure`` does."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)
        return result

    def _step_one(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if parameter.ndim > 1:
            grad = grad.add(parameter, alpha=group['weight_decay'])
            weight_norm, grad_norm = parameter.norm(), grad.norm()
            scale = group['trust'] * weight_norm / grad_norm
            usable = (weight_norm > 0) & (grad_norm > 0)
            grad = grad * torch.where(usable, scale, torch.ones_like(scale))
        state = self.state[parameter]
        if 'momentum' not in state:
            state['momentum'] = torch.zeros_like(parameter)
        state['momentum'].mul_(group['momentum']).add_(grad)
        parameter.sub_(state['momentum'], alpha=group['lr'])
