"""Muon: momentum whose matrices are made orthogonal, and AdamW for everything that is no matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from openlab import device as chips
from openlab.engine.optimizers.moments import by_step, update_moments
from openlab.registry import OPTIMIZERS

_QUINTIC = (3.4445, -4.775, 2.0315)
"""Coefficients of x, x^3 and x^5: steep at zero, and five turns end between 0.7 and 1.2."""


@OPTIMIZERS.register_module()
class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz iterations.

    Method: https://kellerjordan.github.io/posts/muon/. Paper on the size of its steps: Muon is
    Scalable for LLM Training, https://arxiv.org/abs/2502.16982 (section 2.2): a matrix of A x B is
    stepped by 0.2 sqrt(max(A, B)) times the orthogonal matrix, whose root mean square is then that
    of a step of AdamW. So ``lr`` and ``weight_decay`` are those of AdamW, for all parameters.

    Kernels of convolutions are matrices of output channels by everything else. Vectors and
    scalars are trained by AdamW, and so should be embeddings and the last layer, whose rows are
    independent of each other: name them in ``optim_wrapper.paramwise``, as in
    ``custom_keys={'lm_head': dict(orthogonal=False)}``.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: in parts of the weight, times ``lr`` (decoupled).
        momentum: how much of the running sum of gradients stays at a step.
        nesterov: look ahead by one step of the momentum.
        ns_steps: Newton-Schulz iterations.
        orthogonal: ``False`` trains the matrices of a group by AdamW as well.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        ValueError: if a number lies outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        orthogonal: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError('lr, eps and weight_decay must not be negative, got '
                             f'{lr}, {eps} and {weight_decay}')
        if not all(0 <= part < 1 for part in (momentum, *betas)):
            raise ValueError('momentum and betas must lie in [0, 1), got '
                             f'{momentum} and {tuple(betas)}')
        if ns_steps < 1:
            raise ValueError(f'ns_steps must be at least 1, got {ns_steps}')
        super().__init__(params, {
            'lr': lr, 'weight_decay': weight_decay, 'momentum': momentum, 'nesterov': nesterov,
            'ns_steps': ns_steps, 'orthogonal': orthogonal, 'betas': betas, 'eps': eps})

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
            others = []
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                if group['orthogonal'] and parameter.ndim >= 2:
                    self._muon(parameter, group)
                else:
                    others.append(parameter)
            for number, members in by_step(self, others):
                self._adamw(members, group, number)
        return loss

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if 'momentum' not in state:
            state['momentum'] = torch.zeros_like(parameter)
        momentum = state['momentum'].mul_(group['momentum']).add_(grad)
        step = grad.add(momentum, alpha=group['momentum']) if group['nesterov'] else momentum
        matrix = orthogonalise(step.flatten(1), group['ns_steps'])
        lr, rows_by_columns = group['lr'], matrix.shape
        parameter.mul_(1 - lr * group['weight_decay'])
        parameter.add_(matrix.view(parameter.shape),
                       alpha=-lr * 0.2 * math.sqrt(max(rows_by_columns)))

    def _adamw(self, params: list[Tensor], group: dict[str, Any], number: int) -> None:
        beta1, beta2 = group['betas']
        means, squares = update_moments(self, params, group['betas'])
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**number) ** 0.5)
        torch._foreach_add_(roots, group['eps'])
        torch._foreach_mul_(params, 1 - group['lr'] * group['weight_decay'])
        torch._foreach_addcdiv_(params, means, roots, -group['lr'] / (1 - beta1**number))


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values near 1 and leave the singular vectors as they are.

    Computed in bfloat16, which suffices, where the device multiplies the matrix faster in it;
    else in the format of the matrix.

    Args:
        matrix: (A, B).
        steps: turns of x <- a x + b x x'x + c x x'x x'x.

    Returns:
        (A, B), of the same format.
    """
    is_small = matrix.device.type == 'cpu' and min(matrix.shape) < 64
    x = matrix if is_small or not chips.computes_bf16(matrix.device) else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)  # no singular value is larger than the norm of all
    a, b, c = _QUINTIC
    # The way below costs more for a matrix that is nearly square; bfloat16 is too coarse for it.
    if x.dtype == torch.bfloat16 or x.shape[1] < 1.5 * x.shape[0]:
        for _ in range(steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.T if tall else x).to(matrix.dtype)
    # Each turn multiplies x by a symmetric polynomial of x x' from the left. All of them commute,
    # so they are gathered on the smaller side alone: x' itself is needed only twice.
    gram = x @ x.T
    product = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    assert product is not None
    x = product @ x
    return x.T if tall else x
