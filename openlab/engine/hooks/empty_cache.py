"""Give the accelerator's cached memory back between phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openlab import device
from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Empty the accelerator's cache after epochs (of training, validation and test).

    Helps where training and validation use very different sizes; slows down where they do not.

    Args:
        every_n_iters: also after every n-th training iteration; 0 for never.
    """

    priority = 'LOW'

    def __init__(self, every_n_iters: int = 0):
        self.every_n_iters = every_n_iters

    def after_train_epoch(self, runner: Runner) -> None:
        """Make room for validation."""
        device.empty_cache()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Make room for training."""
        device.empty_cache()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Leave nothing behind."""
        device.empty_cache()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Empty it here too, where asked for."""
        if self.every_n_iters and (runner.iter + 1) % self.every_n_iters == 0:
            device.empty_cache()
