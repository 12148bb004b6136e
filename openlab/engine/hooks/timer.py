"""How long iterations take, and how much of that is waiting for data."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@dataclass(frozen=True)
class Speed:
    """What the timer saw since it was last read.

    Attributes:
        iters: iterations.
        iter_seconds: mean seconds from the end of one iteration to the end of the next.
        data_share: share of that time in which the loop waited for a batch, 0 to 1.
        items_per_second: items (images, sequences) of this process per second.
    """

    iters: int
    iter_seconds: float
    data_share: float
    items_per_second: float


@HOOKS.register_module()
class TimerHook(Hook):
    """Sum up iteration and waiting time; whoever reads the sums starts the next window.

    It runs after all other hooks, so that saving a checkpoint or validating does not count as
    waiting for data.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._mark = 0.0
        self._data_seconds = 0.0
        self._seconds = 0.0
        self._iters = 0
        self._items = 0
        self._started = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start from nothing."""
        self.read()
        self._mark = perf_counter()

    def before_train_epoch(self, runner: Runner) -> None:
        """The wait for an epoch's first batch starts here."""
        self._mark = perf_counter()

    def after_val(self, runner: Runner) -> None:
        """Validation in the middle of an epoch is no waiting."""
        self._mark = perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The batch has come."""
        now = perf_counter()
        self._data_seconds += now - self._mark
        self._started = self._mark

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """The iteration is over; the wait for the next batch starts."""
        self._mark = now = perf_counter()
        self._seconds += now - self._started
        self._iters += 1
        self._items += batch_size_of(data_batch)

    def read(self) -> Speed:
        """Return the sums of the window and start the next one."""
        iters, seconds = self._iters, self._seconds
        speed = Speed(
            iters,
            seconds / max(iters, 1),
            self._data_seconds / seconds if seconds else 0.0,
            self._items / seconds if seconds else 0.0,
        )
        self._data_seconds = self._seconds = 0.0
        self._iters = self._items = 0
        return speed


def batch_size_of(data_batch: Any) -> int:
    """Number of items in a collated batch; 0 where it cannot be told."""
    if isinstance(data_batch, dict):
        samples = data_batch.get('samples')
        data_batch = next(iter(data_batch.values()), ()) if samples is None else samples
    elif isinstance(data_batch, (tuple, list)) and data_batch:
        data_batch = data_batch[0]
    try:
        return len(data_batch)
    except TypeError:
        return 0
