"""End training in time, with everything saved."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from openlab.engine.distributed import broadcast_object, is_distributed
from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

SECONDS = {'d': 86400.0, 'h': 3600.0, 'm': 60.0, 's': 1.0}
_PART = re.compile(r'(\d+(?:\.\d+)?)\s*([dhms])')


def parse_duration(value: str | float) -> float:
    """Seconds in a duration such as ``'1h30m'``, ``'2d'``, ``'45s'``, ``'01:30:00'`` or ``90``.

    Raises:
        ValueError: if the value is no positive duration.
    """
    text = str(value).strip().lower()
    seconds = 0.0
    if re.fullmatch(r'\d+(\.\d+)?', text):
        seconds = float(text)
    elif re.fullmatch(r'\d+(:\d{1,2}){1,2}', text):
        for part in (text if text.count(':') == 2 else text + ':0').split(':'):
            seconds = seconds * 60 + float(part)
    elif re.fullmatch(rf'({_PART.pattern}\s*)+', text):
        seconds = sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds <= 0:
        raise ValueError(
            f"{value!r} is no duration; write '1h30m', '2d', '45s', '01:30:00' (h:m:s) or seconds"
        )
    return seconds


@HOOKS.register_module()
class TimeLimitHook(Hook):
    """Stop cleanly before a time limit, after saving: for clusters that kill at the limit.

    The clock starts with this process, so a resumed run has the whole time again.

    Args:
        max_time: duration such as ``'1h30m'``, ``'01:30:00'`` or seconds.
        margin: time kept for saving and for one more validation.
        interval: look at the clock every n iterations; with several processes rank 0 decides
            for all, which costs them one small message each time.
    """

    priority = 'LOW'

    def __init__(self, max_time: str | float, margin: str | float = '30s', interval: int = 10):
        self.limit = parse_duration(max_time)
        self.margin = parse_duration(margin) if margin not in (0, '0', '0s') else 0.0
        self.interval = interval
        self._start = time.monotonic()
        if self.margin >= self.limit:
            raise ValueError(
                f'max_time={max_time!r} is not longer than margin={margin!r}: no time to train'
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None,
                         outputs: object = None) -> None:
        """Ask the loop to end once the time is up."""
        if (runner.iter + 1) % self.interval == 0 and self._is_over(runner):
            used = time.monotonic() - self._start
            runner.logger.info(
                'time limit: %.0f s of %.0f s used at iteration %d; saving and stopping',
                used, self.limit, runner.iter + 1,
            )
            runner.train_loop.stop_training = True

    def _is_over(self, runner: Runner) -> bool:
        over = time.monotonic() - self._start >= self.limit - self.margin
        return broadcast_object(over) if is_distributed() else over
