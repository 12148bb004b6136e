"""What every benchmark needs: fair timing, one table, an exit code.

A benchmark measures the peers it compares with in the same run, taking turns, so that a busy
machine slows all of them alike; what is compared is the median of the turns. It ends with the
limits it must keep, one per line, ``NAME VALUE LIMIT ok|MISS``, and exits with 1 on a miss.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Seconds of the turns of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Middle turn."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles over the median: how much to trust the median."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median

    def over(self, other: Timing) -> float:
        """Middle one of the ratios of each turn to the other's turn beside it.

        A machine whose speed wanders slows both of them, which leaves the ratio.
        """
        return statistics.median(
            a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def interleaved(
    contenders: Mapping[str, Callable[[], object]], turns: int = 7, warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time callables in turns: A B C, B C A, C A B ...

    Args:
        contenders: what to call, by name; one call is one turn.
        turns: how many turns of each are timed.
        warmup: turns of each that are not.
        clock: ``time.process_time`` counts the seconds of CPU of this process alone, which
            other programs disturb least; right where one thread does all the work.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, turns):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            contenders[name]()
            spent = clock() - start
            if turn >= 0:
                seconds[name].append(spent)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def peak_memory(call: Callable[[], object]) -> int:
    """Most bytes that tensors take during a call beyond what they took before it.

    Torch's profiler records every allocation on the CPU, its size or minus its size where it is
    freed; the peak is the largest sum on the way.
    """
    import torch

    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    # The public events leave out what is freed between operators; the record has all, in order.
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@dataclass
class Report:
    """Lines of measurements, then the limits, then the exit code.

    Attributes:
        title: first line of the output.
    """

    title: str
    _limits: list[tuple[str, float, float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f'# {self.title}\n# {machine()}')

    def measured(self, name: str, value: float, unit: str, remark: str = '') -> None:
        """Print a measurement that has no limit of its own."""
        print(f'{name:44} {value:12.4g} {unit:10} {remark}'.rstrip())

    def timings(self, timings: Mapping[str, Timing], per: int = 1) -> None:
        """Print the median of each contender in milliseconds, over ``per`` steps in a turn."""
        for name, timing in timings.items():
            remark = f'spread {timing.spread:.1%}, {len(timing.seconds)} turns'
            self.measured(name, timing.median / per * 1e3, 'ms', remark)

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Promise that a value does not exceed its limit."""
        self._limits.append((name, value, limit, value <= limit))

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Promise that a value reaches its limit."""
        self._limits.append((name, value, limit, value >= limit))

    def finish(self) -> int:
        """Print the limits; return 0 if all are kept, else 1."""
        print()
        for name, value, limit, kept in self._limits:
            print(f'{name} {value:.4g} {limit:.4g} {"ok" if kept else "MISS"}')
        return 0 if all(kept for *_, kept in self._limits) else 1


def machine() -> str:
    """One line on the machine and how busy it was; a busy one makes a poor benchmark."""
    load = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else '?'
    return (f'{processor()}, {os.cpu_count()} cores, load {load}, {platform.system()}, '
            f'Python {platform.python_version()}')


def processor() -> str:
    """Name of the CPU where the system tells it, else the architecture."""
    table = Path('/proc/cpuinfo')
    for line in table.read_text('utf-8').splitlines() if table.exists() else ():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()
