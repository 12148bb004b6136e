"""How large weights, gradients and steps are, module by module."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class ParamStatsHook(Hook):
    """Log norms of weights, gradients and updates for each part of the model.

    Scalars ``params/<part>/weight_norm``, ``grad_norm`` and ``update_ratio`` (size of the step
    over size of the weights; about 1e-3 is healthy). Other steps cost nothing.

    Args:
        interval: measure every n-th optimizer step.
        depth: how many levels of module names make a part: 1 gives ``backbone``, 2
            ``backbone.layer1``.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 100, depth: int = 2):
        if interval < 1 or depth < 1:
            raise ValueError(f'interval and depth must be at least 1, not {interval}, {depth}')
        self.interval = interval
        self.depth = depth
        self._steps = 0
        self._before: dict[str, Tensor] = {}
        self._scalars: dict[str, float] = {}

    @torch.no_grad()
    def before_optimizer_step(self, runner: Runner) -> None:
        """Measure gradients and remember the weights."""
        self._steps += 1
        if self._steps % self.interval:
            return
        model = runner.unwrapped_model
        weights = {n: p.detach() for n, p in model.named_parameters() if p.grad is not None}
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        self._scalars = {
            f'params/{part}/grad_norm': norm
            for part, norm in norms_by_part(grads, self.depth).items()
        }
        self._before = {n: w.clone() for n, w in weights.items()}

    @torch.no_grad()
    def after_optimizer_step(self, runner: Runner) -> None:
        """Compare with the weights before, and log."""
        if not self._before:
            return
        now = dict(runner.unwrapped_model.named_parameters())
        steps = {n: now[n].detach() - before for n, before in self._before.items()}
        weight_norms = norms_by_part(self._before, self.depth)
        for part, norm in norms_by_part(steps, self.depth).items():
            self._scalars[f'params/{part}/weight_norm'] = weight_norms[part]
            self._scalars[f'params/{part}/update_ratio'] = norm / max(weight_norms[part], 1e-12)
        runner.log(self._scalars, runner.iter + 1)
        self._before = {}


def norms_by_part(tensors: dict[str, Tensor], depth: int) -> dict[str, float]:
    """Euclidean norm of all tensors of each part, read from the device at once.

    Args:
        tensors: by parameter name; the last word of a name is not part of the part.
        depth: how many levels of names make a part.
    """
    parts: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(tensors):
        words = name.split('.')
        parts['.'.join(words[: min(depth, max(len(words) - 1, 1))])].append(i)
    if not parts:
        return {}
    norms = [torch.linalg.vector_norm(t, dtype=torch.float32) for t in tensors.values()]
    # sharded tensors (FSDP2) give a sharded norm; `full_tensor` sums over processes
    norms = [n.full_tensor() if hasattr(n, 'full_tensor') else n for n in norms]
    squares = torch.stack(norms).square().tolist()
    return {part: sum(squares[i] for i in rows) ** 0.5 for part, rows in parts.items()}


def grad_norms(model: nn.Module, depth: int = 2) -> dict[str, float]:
    """Gradient norm of each part of a model that has gradients now."""
    return norms_by_part(
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, depth
    )
