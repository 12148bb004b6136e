"""Tells when torch.compile compiles again in the middle of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openlab.engine.hooks.base import Hook
from openlab.engine.model_setup import num_compiled_graphs
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class CompileCountHook(Hook):
    """Log the number of compiled graphs whenever it has grown; every run with ``compile`` has it.

    A number that keeps growing means that something changes from batch to batch, mostly shapes:
    pad to fewer sizes, or set ``compile.dynamic=True``.

    Args:
        interval: iterations between two looks.
    """

    def __init__(self, interval: int = 20):
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval = interval
        self.count = 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Look at the first iteration and at every ``interval``-th."""
        step = runner.iter + 1
        if step != 1 and step % self.interval:
            return
        count = num_compiled_graphs()
        if count > self.count:
            runner.logger.info('iteration %d: %d graphs compiled so far', step, count)
            runner.log({'compile/graphs': float(count)}, step)
            self.count = count
