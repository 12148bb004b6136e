"""End training when a metric has stopped getting better."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, Literal

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

LOWER_IS_BETTER = ('loss', 'error', 'err', 'mae', 'mse', 'rmse', 'perplexity', 'ppl', 'ece')


@HOOKS.register_module()
class EarlyStopHook(Hook):
    """Stop after ``patience`` validations without a better value of ``metric``.

    Args:
        metric: full name of a validation result, such as ``accuracy/top1``.
        patience: validations in a row without improvement after which training ends.
        min_delta: a smaller gain than this does not count as better.
        mode: whether ``'max'`` or ``'min'`` is better; by default ``'min'`` for names of losses
            and errors and ``'max'`` for all others.
        target: also stop as soon as the metric is at least this good.
    """

    priority = 'LOW'

    def __init__(
        self,
        metric: str,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: Literal['max', 'min'] | None = None,
        target: float | None = None,
    ):
        if mode not in ('max', 'min', None):
            raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
        if patience < 1 or min_delta < 0:
            raise ValueError(
                f'patience must be at least 1 and min_delta at least 0, not {patience} and '
                f'{min_delta}'
            )
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode or default_mode(metric)
        self.target = target
        self.best: float | None = None
        self.bad_in_a_row = 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Compare, count, and ask the loop to end."""
        value = pick_metric(metrics or {}, self.metric, 'EarlyStopHook.metric')
        if self._is_better(value):
            self.best, self.bad_in_a_row = value, 0
        else:
            self.bad_in_a_row += 1
        reason = None
        if self.target is not None and self._reached(value, self.target):
            reason = f'reached its target of {self.target:g} with {value:g}'
        elif self.bad_in_a_row >= self.patience:
            best = 'a finite value' if self.best is None else f'{self.best:g}'
            reason = f'has not been better than {best} for {self.bad_in_a_row} validations'
        if reason:
            runner.logger.info('early stop: %s %s', self.metric, reason)
            runner.train_loop.stop_training = True

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.mode == 'max' else self.best - value
        return gain > self.min_delta

    def _reached(self, value: float, target: float) -> bool:
        return value >= target if self.mode == 'max' else value <= target

    def state_dict(self) -> dict[str, Any]:
        """Best value and count, so that a resumed run stops where the whole one would."""
        return {'best': self.best, 'bad_in_a_row': self.bad_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.best = state.get('best')
        self.bad_in_a_row = int(state.get('bad_in_a_row', 0))


def default_mode(metric: str) -> Literal['max', 'min']:
    """``'min'`` where a word of the name is that of a loss or an error, else ``'max'``."""
    words = metric.lower().replace('/', '_').split('_')
    return 'min' if any(w in LOWER_IS_BETTER for w in words) else 'max'


def pick_metric(metrics: dict[str, float], name: str, where: str) -> float:
    """Value of a metric by its full name.

    Raises:
        ValueError: if validation gave no such name; the message lists those that it gave.
    """
    if name in metrics:
        return float(metrics[name])
    near = difflib.get_close_matches(name, metrics, n=1, cutoff=0.4)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    names = ', '.join(sorted(metrics)) or 'nothing'
    raise ValueError(f'{where}={name!r}: validation gives {names}{hint}')
