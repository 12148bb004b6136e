"""Steps learning-rate and momentum schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Step each schedule in its unit: after iterations, epochs, or validations.

    It comes after logging, which reports the lr that was used, and before saving, which keeps
    the lr that comes next.
    """

    priority = 'LOW'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Count an iteration."""
        for schedule in runner.param_schedulers:
            if not schedule.by_epoch and not getattr(schedule, 'need_val_args', False):
                schedule.step()

    def after_train_epoch(self, runner: Runner) -> None:
        """Count an epoch."""
        for schedule in runner.param_schedulers:
            if schedule.by_epoch and not getattr(schedule, 'need_val_args', False):
                schedule.step()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Tell the metrics to schedules that watch one."""
        for schedule in runner.param_schedulers:
            if getattr(schedule, 'need_val_args', False):
                schedule.step(metrics)
