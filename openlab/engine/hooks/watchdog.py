"""Tells the watchdog where training stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlab.engine import distributed
from openlab.engine.hooks.base import Hook
from openlab.engine.watchdog import FOLDER_VARIABLE, Watchdog
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class WatchdogHook(Hook):
    """On a standstill name the rank that hangs or died, print stacks, and end the process.

    Args:
        timeout_s: seconds without progress that count as a standstill; longer than the slowest
            step, validation batch or save.
        single: watch a training of one process too.
    """

    priority = 'VERY_HIGH'

    def __init__(self, timeout_s: float = 1800.0, single: bool = False):
        if timeout_s <= 0:
            raise ValueError(f'timeout_s={timeout_s}; it must be positive')
        self.timeout_s = timeout_s
        self.single = single
        self._watchdog: Watchdog | None = None

    def before_run(self, runner: Runner) -> None:
        """Start watching, where there are several processes."""
        if distributed.world_size() == 1 and not self.single:
            return
        folder = os.environ.get(FOLDER_VARIABLE) or Path(runner.work_dir) / 'heartbeats'
        self._watchdog = Watchdog(
            folder, distributed.rank(), distributed.world_size(), self.timeout_s)
        self._watchdog.start()

    def _mark(self, step: int, phase: str) -> None:
        if self._watchdog is not None:
            self._watchdog.progress(step, phase)

    def before_train_epoch(self, runner: Runner) -> None:
        """The loader starts."""
        self._mark(runner.iter, 'waiting for data')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A batch is there."""
        self._mark(runner.iter, 'forward and backward')

    def before_optimizer_step(self, runner: Runner) -> None:
        """Gradients are there."""
        self._mark(runner.iter, 'optimizer step')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """The step is done; other hooks follow, then the loader."""
        self._mark(runner.iter + 1, 'waiting for data')

    def after_train_epoch(self, runner: Runner) -> None:
        """Hooks at the end of an epoch (saving) follow."""
        self._mark(runner.iter, 'after the step')

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A batch of the validation is there."""
        self._mark(runner.iter, 'validation')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Validation is done."""
        self._mark(runner.iter, 'validation')

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A batch of the test is there."""
        self._mark(runner.iter, 'validation')

    def after_run(self, runner: Runner) -> None:
        """Stop watching."""
        self._mark(runner.iter, 'done')
        self._stop()

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """Stop watching: the exception ends the process by itself."""
        self._stop()

    def _stop(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
