"""LAMB: Adam whose steps are measured by the size of each weight tensor, for large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from openlab.engine.optimizers.moments import by_step, update_moments
from openlab.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class Lamb(Optimizer):
    """Layer-wise adaptive moments.

    Paper: Large Batch Optimization for Deep Learning, https://arxiv.org/abs/1904.00962
    (algorithm 2). The step of Adam, weight decay included, is scaled to the norm of the tensor
    that it changes. Clip gradients by ``optim_wrapper.clip_grad``; the recipes that this is for
    use ``max_norm=1.0``.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: how much of the running means of gradients and of their squares stays at a step.
        eps: added to the root of the mean square.
        weight_decay: added to the step, in parts of the weight.
        bias_correction: correct running means for their start at zero.
        max_trust: largest factor of a step; 1 is LAMBC. ``None``: no bound.
        always_adapt: scale tensors without weight decay (biases, norms) as well; by default
            theirs are plain steps of Adam, as in the implementations that recipes were made with.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        max_trust: float | None = None,
        always_adapt: bool = False,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError('lr, eps and weight_decay must not be negative, got '
                             f'{lr}, {eps} and {weight_decay}')
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f'betas must lie in [0, 1), got {tuple(betas)}')
        super().__init__(params, {
            'lr': lr, 'betas': betas, 'eps': eps, 'weight_decay': weight_decay,
            'bias_correction': bias_correction, 'max_trust': max_trust,
            'always_adapt': always_adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Change every parameter that has a gradient.

        Args:
            closure: computes loss and gradients anew; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            for number, members in by_step(self, params):
                self._step_of(members, group, number)
        return loss

    def _step_of(self, params: list[Tensor], group: dict[str, Any], number: int) -> None:
        beta1, beta2 = group['betas']
        means, squares = update_moments(self, params, group['betas'])

        correct = group['bias_correction']
        roots = torch._foreach_sqrt(squares)
        if correct:
            torch._foreach_div_(roots, (1 - beta2**number) ** 0.5)
        torch._foreach_add_(roots, group['eps'])
        steps = list(torch._foreach_div(means, roots))
        if correct:
            torch._foreach_div_(steps, 1 - beta1**number)
        if group['weight_decay']:
            torch._foreach_add_(steps, params, alpha=group['weight_decay'])
        if group['weight_decay'] or group['always_adapt']:
            trust: Any = self._trust(params, steps, group['max_trust'])
            torch._foreach_mul_(steps, trust)
        torch._foreach_add_(params, steps, alpha=-group['lr'])

    @staticmethod
    def _trust(params: list[Tensor], steps: list[Tensor],
               max_trust: float | None) -> list[Tensor]:
        """Norm of each tensor over that of its step; 1 where either is 0."""
        sizes = torch.stack(torch._foreach_norm(params))
        lengths = torch.stack(torch._foreach_norm(steps))
        trust = torch.where((sizes > 0) & (lengths > 0), sizes / lengths, 1.0)
        if max_trust is not None:
            trust = trust.clamp(max=max_trust)
        return list(trust.unbind())
