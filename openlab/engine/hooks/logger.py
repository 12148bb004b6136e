"""Turn what training returns into rows for the loggers and a line for the person watching.

An iteration costs one append: losses stay on their device as they are and are read together, in
one transfer, when a row is due. Only the iterations of a row are kept, and of those at most
``MAX_PENDING``, so the cost after a million iterations is that of the first.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from openlab.device import get_device, max_memory_allocated, resident_memory
from openlab.engine import distributed
from openlab.engine.hooks.base import Hook
from openlab.engine.hooks.progress import (
    DISPLAYS,
    LOADER_IS_SLOW,
    Display,
    Progress,
    better,
    format_value,
    make_display,
)
from openlab.engine.hooks.timer import Speed, TimerHook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

MAX_PENDING = 1000
NOT_LOGGED = {'num_items'}


@HOOKS.register_module()
class LoggerHook(Hook):
    """Log a row of scalars every ``interval`` iterations and after each validation.

    A row's ``train/...`` values are means over the iterations since the row before. The losses
    of a row begun before a checkpoint are part of the checkpoint, so the rows of a resumed run
    equal those of an uninterrupted one.

    Args:
        interval: iterations between two rows; by default 50, and fewer in a training so short
            that it would have less than 20 rows.
        smooth: iterations over which the losses on the progress line are averaged; the rows
            are not smoothed.
        display: ``rich`` (live line), ``plain`` (text lines) or ``auto``: rich on a terminal.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int | None = None, smooth: int = 50, display: str = 'auto'):
        if (interval is not None and interval < 1) or smooth < 1:
            raise ValueError(
                f'interval and smooth must be at least 1, not interval={interval}, '
                f'smooth={smooth}')
        if display not in DISPLAYS:
            raise ValueError(f'display must be one of {DISPLAYS}, not {display!r}')
        self.is_auto = interval is None
        self.interval = interval or 50
        self.smooth = smooth
        self.display_kind = display
        self.best: dict[str, float] = {}
        self._pending: deque[Mapping[str, Any]] = deque(maxlen=MAX_PENDING)
        self._smooth: dict[str, deque[float]] = {}
        self._display: Display | None = None
        self._timer: TimerHook | None = None
        self._clock: tuple[float, int] | None = None  # when the first row came, and its step
        self._has_hinted = False

    def before_train(self, runner: Runner) -> None:
        """Find the timer and open the display."""
        self._timer = next((h for h in runner.hooks if isinstance(h, TimerHook)), None)
        self._clock = None
        self._smooth.clear()
        if self.is_auto:
            self.interval = min(50, max(1, runner.max_iters // 20))
        self._open_display(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Keep the losses; write a row when one is due."""
        if outputs is not None:
            self._pending.append(outputs)
        step = runner.iter + 1  # the loop counts this iteration after the hooks
        if step % self.interval == 0 or step == runner.max_iters:
            self._write_row(runner, step)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                       outputs: Any = None) -> None:
        """Show how far validation has come."""
        if self._display is not None:
            self._display.validating(batch_idx + 1, _length(getattr(runner, 'val_dataloader', ())))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log and show the metrics of a validation."""
        if not metrics:
            return
        values = {name: float(value) for name, value in metrics.items() if _is_scalar(value)}
        epoch, step = _epoch(runner), runner.iter
        row = {f'val/{name}': value for name, value in values.items()}
        if epoch is not None:
            row = {'epoch': epoch, **row}
        if runner.train_loop is not None:  # else there is no run whose log this could join
            runner.log(row, step)
        for name, value in values.items():
            if better(name, value, self.best.get(name)):
                self.best[name] = value
        if runner.rank == 0:
            self._open_display(runner)
            assert self._display is not None
            title = f'iter {step}' if epoch is None else f'epoch {epoch}'
            self._display.metrics(f'val {title}', values, self.best)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Show the metrics of a test."""
        if metrics and runner.rank == 0:
            for name, value in metrics.items():
                if _is_scalar(value):
                    runner.logger.info(f'test  {name} {format_value(float(value))}')

    def after_train(self, runner: Runner) -> None:
        """Close the display."""
        self._close_display()

    def after_run(self, runner: Runner) -> None:
        """Close the display of a validation without a training."""
        self._close_display()

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """Give the terminal back before the error is printed."""
        self._close_display()

    def state_dict(self) -> dict[str, Any]:
        """Losses of the row that is not finished yet, and the best metrics."""
        # every process has losses of its own
        pending = distributed.all_gather_object(read_scalars(self._pending))
        return {'pending': pending, 'best': dict(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the unfinished row."""
        pending = state.get('pending') or [[]]
        own = pending[distributed.rank()] if len(pending) == distributed.world_size() else []
        self._pending = deque(own, maxlen=MAX_PENDING)
        self.best = dict(state.get('best', {}))

    def _write_row(self, runner: Runner, step: int) -> None:
        own = mean_of_each(read_scalars(self._pending))
        losses = mean_of_each(distributed.all_gather_object(own))
        self._pending.clear()
        speed = self._timer.read() if self._timer is not None else None
        epoch = _epoch(runner, running=True)
        lr = learning_rate(runner.optim_wrapper)
        device_bytes, rss_bytes = device_memory(), resident_memory()
        row: dict[str, float] = {} if epoch is None else {'epoch': epoch}
        losses = dict(sorted(losses.items(), key=lambda item: item[0] != 'loss'))
        row |= {f'train/{name}': value for name, value in losses.items()}
        if lr is not None:
            row['train/lr'] = lr
        world_size = getattr(runner, 'world_size', 1)
        if speed is not None and speed.iters:
            row |= {'speed/iter_seconds': speed.iter_seconds,
                    'speed/data_share': speed.data_share,
                    'speed/items_per_second': speed.items_per_second * world_size}
        row['memory/rss_mib'] = rss_bytes / 2**20
        if device_bytes:
            row['memory/device_mib'] = device_bytes / 2**20
        runner.log(row, step)
        for name, value in losses.items():
            window = self._smooth.setdefault(
                name, deque(maxlen=max(1, round(self.smooth / self.interval))))
            window.append(value)
        if runner.rank != 0 or self._display is None:
            return
        smooth = {n: math.fsum(v) / len(v) for n, v in self._smooth.items()}
        self._display.update(Progress(
            step=step, max_steps=runner.max_iters, epoch=epoch,
            max_epochs=runner.max_epochs if epoch is not None else None,
            losses=smooth, lr=lr,
            data_share=speed.data_share if speed else 0.0,
            items_per_second=speed.items_per_second * world_size if speed else 0.0,
            device_bytes=device_bytes, rss_bytes=rss_bytes,
            eta_seconds=self._eta(step, runner.max_iters, speed)))
        self._hint(runner, speed)

    def _eta(self, step: int, max_steps: int, speed: Speed | None) -> float:
        """Seconds to the end by the wall clock since the first row, validations included."""
        now = perf_counter()
        if self._clock is None or step <= self._clock[1]:
            self._clock = (now, step)
            return (max_steps - step) * (speed.iter_seconds if speed else 0.0)
        started, first_step = self._clock
        return (max_steps - step) * (now - started) / (step - first_step)

    def _hint(self, runner: Runner, speed: Speed | None) -> None:
        if (self._has_hinted or speed is None or speed.iters < min(self.interval, 20)
                or speed.data_share <= LOADER_IS_SLOW or self._clock is None
                or self._clock[1] == runner.iter + 1):  # the first row waits for workers to start
            return
        self._has_hinted = True
        runner.logger.warning(
            f'{speed.data_share:.0%} of the time goes into waiting for data. Raise '
            'train_dataloader.num_workers, wrap the dataset in a cache, or make images smaller '
            'on disk; `openlab data bench CONFIG` shows which stage is slow.')

    def _open_display(self, runner: Runner) -> None:
        if self._display is None and runner.rank == 0:
            self._display = make_display(self.display_kind, getattr(runner, 'logger', None))
            self._display.start()

    def _close_display(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None


def read_scalars(pending: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The scalars of several iterations as numbers, in one transfer from the device."""
    rows: list[dict[str, float]] = []
    waiting: list[tuple[dict[str, float], str, Tensor]] = []
    for outputs in pending:
        row: dict[str, float] = {}
        for name, value in outputs.items():
            if name in NOT_LOGGED or not _is_scalar(value):
                continue
            row[name] = 0.0  # holds the place, so that names keep their order
            if isinstance(value, Tensor):
                waiting.append((row, name, value.reshape(()) if value.ndim else value))
            else:
                row[name] = float(value)
        rows.append(row)
    tensors = [tensor for _, _, tensor in waiting]
    if len({(t.device, t.dtype) for t in tensors}) == 1:
        numbers = torch.stack(tensors).detach().tolist()
    else:
        numbers = [t.item() for t in tensors]
    for (row, name, _), number in zip(waiting, numbers):
        row[name] = number
    return rows


def mean_of_each(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every scalar over the iterations that have it, summed without rounding."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, number in row.items():
            values[name].append(number)
    return {name: _mean(numbers) for name, numbers in values.items()}


def learning_rate(optim_wrapper: Any) -> float | None:
    """Largest learning rate of all parameter groups; ``None`` where there is no optimizer."""
    groups = getattr(optim_wrapper, 'param_groups', None)
    if groups is None:
        groups = getattr(getattr(optim_wrapper, 'optimizer', None), 'param_groups', None)
    return max(float(group['lr']) for group in groups) if groups else None


def device_memory() -> int:
    """Most bytes that tensors took on the accelerator at one time; 0 without one."""
    device = get_device()
    return 0 if device.type == 'cpu' else max_memory_allocated(device)


def _mean(numbers: list[float]) -> float:
    if len(numbers) == 1:
        return numbers[0]
    # fsum refuses to add +inf and -inf; their mean is no number anyway
    if not all(map(math.isfinite, numbers)):
        return sum(numbers) / len(numbers)
    return math.fsum(numbers) / len(numbers)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float, np.number))


def _epoch(runner: Runner, running: bool = False) -> int | None:
    """Number of the running or just finished epoch from 1; ``None`` if training has no epochs."""
    if not getattr(runner, 'max_epochs', None) or not _counts_epochs(runner):
        return None
    return runner.epoch + 1 if running else max(runner.epoch, 1)


def _counts_epochs(runner: Runner) -> bool:
    loop = getattr(runner, 'train_loop', None)
    by_name = not type(loop).__name__.startswith('Iter')  # mmengine's loops do not say
    return getattr(loop, 'counts_epochs', by_name)


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError:
        return 0
