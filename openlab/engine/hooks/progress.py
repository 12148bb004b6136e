"""What a person sees of a running training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TextIO

from openlab.visualization.curves import smaller_is_better

LOADER_IS_SLOW = 0.5  # share of the time waiting for data that is worth a hint
DISPLAYS = ('auto', 'rich', 'plain')


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: finished iterations.
        max_steps: iterations of the whole training.
        epoch: the epoch that is running, from 1; ``None`` for iteration-based training.
        max_epochs: epochs of the whole training.
        losses: smoothed losses by name, ``loss`` first.
        lr: learning rate of the last iteration.
        data_share: share of the time spent waiting for data, 0 to 1.
        items_per_second: throughput of all processes.
        device_bytes: largest memory allocated on the accelerator; 0 without one.
        rss_bytes: resident memory of this process.
        eta_seconds: estimated seconds to the end, validations included.
    """

    step: int
    max_steps: int
    epoch: int | None = None
    max_epochs: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None
    data_share: float = 0.0
    items_per_second: float = 0.0
    device_bytes: int = 0
    rss_bytes: int = 0
    eta_seconds: float = 0.0


def describe(progress: Progress, losses: int = 4) -> list[str]:
    """The parts of a progress line, without the position.

    Args:
        progress: what to describe.
        losses: most losses to name.
    """
    shown = list(progress.losses.items())[:losses]
    if len(shown) > 1 and shown[0][1] == shown[1][1]:
        del shown[1]  # the only part of a total says nothing new
    parts = [f'{name} {value:.4g}' for name, value in shown]
    if progress.lr is not None:
        parts.append(f'lr {progress.lr:.3g}')
    parts.append(f'{progress.items_per_second:,.4g} img/s' if progress.items_per_second < 100
                 else f'{progress.items_per_second:,.0f} img/s')
    data = f'data {progress.data_share:.0%}'
    parts.append(data + ' (loader is slow)' if progress.data_share > LOADER_IS_SLOW else data)
    if progress.device_bytes:
        parts.append(f'device {format_bytes(progress.device_bytes)}')
    parts.append(f'RAM {format_bytes(progress.rss_bytes)}')
    parts.append(f'ETA {format_duration(progress.eta_seconds)}')
    return parts


def position(progress: Progress) -> str:
    """Epoch and iteration, padded so that lines of one training stay aligned."""
    width = len(str(progress.max_steps))
    text = f'iter {progress.step:{width}d}/{progress.max_steps}'
    if progress.epoch is None:
        return text
    width = len(str(progress.max_epochs))
    return f'epoch {progress.epoch:{width}d}/{progress.max_epochs}  {text}'


class Display(ABC):
    """Base of the ways to show progress."""

    def start(self) -> None:  # noqa: B027 (optional to override)
        """Training begins."""

    @abstractmethod
    def update(self, progress: Progress) -> None:
        """Show where training stands."""

    @abstractmethod
    def validating(self, done: int, total: int) -> None:
        """Show how far a validation has come; may be called for each batch."""

    @abstractmethod
    def metrics(self, title: str, values: Mapping[str, float], best: Mapping[str, float]) -> None:
        """Show the result of a validation.

        Args:
            title: what was validated, such as ``epoch 3``.
            values: metrics by name.
            best: the best value of each metric in this run, where better is known.
        """

    def stop(self) -> None:  # noqa: B027 (optional to override)
        """Training has ended, or failed."""


class PlainDisplay(Display):
    """One line of text for each update, for files and pipes.

    Args:
        write: takes one line.
        every_seconds: least time between two lines of one validation.
    """

    def __init__(self, write: Any = print, every_seconds: float = 30.0):
        self.write = write
        self.every_seconds = every_seconds
        self._shown = perf_counter()

    def update(self, progress: Progress) -> None:
        """Write one line."""
        self.write('  '.join([position(progress), *describe(progress)]))
        self._shown = perf_counter()

    def validating(self, done: int, total: int) -> None:
        """Write a line if none was written for a while."""
        if perf_counter() - self._shown > self.every_seconds:
            self._shown = perf_counter()
            self.write(f'validating: batch {done}/{total}')

    def metrics(self, title: str, values: Mapping[str, float], best: Mapping[str, float]) -> None:
        """Write one line."""
        self.write(f'{title}:  ' + '  '.join(
            f'{name} {format_value(value)}{"*" if is_best(name, value, best) else ""}'
            for name, value in values.items()))


class RichDisplay(Display):
    """A live bar at the foot of the terminal; metrics scroll away above it.

    It repaints only when it is told something, so there is no thread that competes with training.

    Args:
        console: a ``rich`` console; by default one on standard output.
        loggers: loggers whose messages must appear above the bar instead of inside it.
    """

    def __init__(self, console: Any = None, loggers: tuple[logging.Logger, ...] = ()):
        from rich.console import Console

        self.console = console or Console()
        self.loggers = loggers
        self._live: Any = None
        self._redirected: list[tuple[logging.StreamHandler, TextIO]] = []
        self._last: Progress | None = None
        self._shown = 0.0

    def start(self) -> None:
        """Show the bar."""
        from rich.file_proxy import FileProxy
        from rich.live import Live

        if self._live is not None:
            return
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()
        for logger in self.loggers:
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler) and not isinstance(
                        handler, logging.FileHandler):
                    self._redirected.append((handler, handler.stream))
                    handler.setStream(FileProxy(self.console, handler.stream))

    def update(self, progress: Progress) -> None:
        """Repaint."""
        self._last = progress
        self._paint(' · '.join(describe(progress)[:-1]))  # the time left stands beside the bar

    def validating(self, done: int, total: int) -> None:
        """Repaint, a few times a second at most."""
        if perf_counter() - self._shown > 0.25:
            self._paint(f'validating {done}/{total}')

    def metrics(self, title: str, values: Mapping[str, float], best: Mapping[str, float]) -> None:
        """Print one line above the bar, best values in bold green."""
        from rich.text import Text

        line = Text().append(f'{title:<12}', style='bold')
        for name, value in values.items():
            line.append(f'  {name} ', style='dim')
            line.append(format_value(value),
                        style='bold green' if is_best(name, value, best) else '')
        self.console.print(line)

    def stop(self) -> None:
        """Take the bar away and give the streams back."""
        if self._live is not None:
            for handler, stream in self._redirected:
                handler.setStream(stream)
            self._redirected.clear()
            self._live.stop()
            self._live = None

    def _paint(self, text: str) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        self._shown = perf_counter()
        if self._live is None:
            return
        bar = Table.grid(padding=(0, 1))
        done = self._last
        if done is not None:
            share = done.step / max(done.max_steps, 1)
            bar.add_row(Text(position(done), style='bold'),
                        ProgressBar(total=1.0, completed=share, width=24, complete_style='cyan',
                                    finished_style='green'), f'{share:4.0%}',
                        describe(done)[-1])
        style = 'yellow' if done is not None and done.data_share > LOADER_IS_SLOW else 'cyan'
        self._live.update(Group(bar, Text(text, style=style, no_wrap=True, overflow='ellipsis')),
                          refresh=True)


def make_display(kind: str = 'auto', logger: logging.Logger | None = None) -> Display:
    """Return the display that suits standard output.

    Args:
        kind: ``auto``, ``rich`` or ``plain``.
        logger: logger for plain lines; ``print`` without one.

    Raises:
        ValueError: if ``kind`` is something else.
    """
    if kind not in DISPLAYS:
        raise ValueError(f'display must be one of {DISPLAYS}, not {kind!r}')
    if kind == 'rich' or (kind == 'auto' and sys.stdout.isatty()):
        return RichDisplay(loggers=() if logger is None else (logger, logging.getLogger()))
    return PlainDisplay(print if logger is None else logger.info)


def better(metric: str, a: float, b: float | None) -> bool:
    """Whether value ``a`` of a metric beats ``b``."""
    if b is None or b != b:
        return True
    return a < b if smaller_is_better(metric) else a > b


def is_best(name: str, value: float, best: Mapping[str, float]) -> bool:
    """Whether this value is the best one of the run so far."""
    return name in best and best[name] == value


def format_value(value: Any) -> str:
    """A metric for people: four decimals, whole numbers as they are."""
    if isinstance(value, float):
        return f'{value:.4f}' if 1e-3 <= abs(value) < 1e5 or value == 0 else f'{value:.4g}'
    return str(value)


def format_bytes(count: float) -> str:
    """Bytes with a binary unit: ``512 MiB``, ``3.4 GiB``."""
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def format_duration(seconds: float) -> str:
    """Seconds as ``0:00:12`` or ``2 d 3:04:05``."""
    seconds = max(0, round(seconds))
    days, rest = divmod(seconds, 86400)
    clock = f'{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}'
    return f'{days} d {clock}' if days else clock
