"""Find a learning rate and a batch size by short trials that leave no trace.

Both take a runner that has not begun to train, run real steps on real batches with hooks muted,
and put weights, buffers, optimizer and random generators back bit by bit.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openlab import device as chips
from openlab.engine.distributed import all_reduce, is_main_process
from openlab.engine.loops import train_step

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

MOST_ITEMS = 64  # decoded for the batch-size finder; larger batches repeat them


@dataclass
class LrFinderResult:
    """What a sweep over learning rates has shown.

    Attributes:
        lrs: learning rates tried, rising.
        losses: loss at each of them.
        smoothed: running mean of the losses.
        steepest: where the smoothed loss falls fastest.
        lowest: where it is lowest; the last rate before it rises again.
        suggestion: ``steepest``, but at most a third of ``lowest``.
        stopped_early: the loss blew up before the last rate.
        plot: picture of the sweep.
    """

    lrs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    steepest: float = math.nan
    lowest: float = math.nan
    suggestion: float = math.nan
    stopped_early: bool = False
    plot: Path | None = None

    def __str__(self) -> str:
        end = 'where the loss blew up' if self.stopped_early else 'the end of the range'
        return (
            f'suggested lr {self.suggestion:.2e}: the loss falls fastest at {self.steepest:.2e} '
            f'and is lowest at {self.lowest:.2e}; {len(self.lrs)} rates from {self.lrs[0]:.1e} to '
            f'{self.lrs[-1]:.1e} ({end})' + (f'; plot: {self.plot}' if self.plot else '')
        )


@dataclass(frozen=True)
class BatchTrial:
    """One batch size that was tried.

    Attributes:
        size: samples in the batch.
        seconds_per_sample: time of a training step over the size; NaN if it did not fit.
        memory: peak bytes on the device while training so.
        fits: whether it ran within the memory limit.
    """

    size: int
    seconds_per_sample: float
    memory: int
    fits: bool


@dataclass
class BatchSizeResult:
    """What the search for a batch size has shown.

    Attributes:
        batch_size: the one to use, for each process.
        reason: why it went no further.
        trials: all sizes tried, in order of size.
    """

    batch_size: int
    reason: str
    trials: list[BatchTrial]

    def __str__(self) -> str:
        lines = [f'batch size {self.batch_size}: {self.reason}']
        for t in self.trials:
            speed = f'{1 / t.seconds_per_sample:10.1f} samples/s' if t.fits else '   does not fit'
            lines.append(f'  {t.size:6d} {speed} {t.memory / 2**20:10.0f} MiB')
        return '\n'.join(lines)


def find_lr(
    runner: Runner,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 100,
    smoothing: float = 0.9,
    blow_up: float = 4.0,
    plot: str | Path | None = 'lr_finder.png',
) -> LrFinderResult:
    """Raise the learning rate exponentially over real steps and watch the loss.

    Rules for single parameters (``paramwise``) keep their ratio to the base rate. With
    accumulation each rate gets one accumulated step.

    Args:
        runner: not training yet.
        min_lr: first rate.
        max_lr: last rate.
        num_steps: rates to try.
        smoothing: weight of the past in the running mean of the loss, in [0, 1).
        blow_up: stop when the smoothed loss is this many times the lowest so far, or not finite.
        plot: name of the picture, relative to the run folder; ``None`` for none.

    Raises:
        ValueError: if the arguments make no sweep, or the very first losses are not finite.
    """
    if not 0 < min_lr < max_lr or num_steps < 5 or not 0 <= smoothing < 1 or blow_up <= 1:
        raise ValueError(
            'find_lr needs 0 < min_lr < max_lr, num_steps >= 5, 0 <= smoothing < 1 and '
            f'blow_up > 1, not {min_lr}, {max_lr}, {num_steps}, {smoothing} and {blow_up}'
        )
    prepare(runner)
    result = LrFinderResult()
    lrs = [min_lr * (max_lr / min_lr) ** (i / (num_steps - 1)) for i in range(num_steps)]
    with untouched(runner):
        runner.model.train()
        batches = _endless(runner)
        for lr in lrs:
            loss = _step_at(runner, lr, batches)
            mean = _smoothed(result, loss, smoothing)
            if not math.isfinite(mean) or mean > blow_up * min([*result.smoothed, mean]):
                result.stopped_early = True
                break
            result.lrs.append(lr)
            result.losses.append(loss)
            result.smoothed.append(mean)
    if len(result.lrs) < 5:
        raise ValueError(
            f'the loss is {loss:g} already at lr={lr:.1e}: the sweep cannot begin; check the '
            'data and the model, or choose a smaller min_lr'
        )
    _suggest(result)
    if plot is not None and is_main_process():
        result.plot = plot_sweep(result, Path(runner.work_dir) / plot)
    return result


def _step_at(runner: Runner, lr: float, batches: Iterator[Any]) -> float:
    """One accumulated step with a learning rate; the mean loss over it and all processes."""
    groups = runner.optim_wrapper.optimizer.param_groups
    base = max(group.get('initial_lr', group['lr']) for group in groups)
    before = [group['lr'] for group in groups]
    for group in groups:
        group['lr'] = lr * group.get('initial_lr', group['lr']) / base
    losses: list[Tensor] = []
    for data_batch in islice(batches, runner.optim_wrapper.accumulate):
        losses.append(train_step(runner, data_batch, is_last=False)['loss'])
    for group, old in zip(groups, before):
        group['lr'] = old
    return float(all_reduce(torch.stack(losses).float().mean(), 'mean'))


def _smoothed(result: LrFinderResult, loss: float, smoothing: float) -> float:
    """Running mean, corrected for its start at zero."""
    count = len(result.losses)
    past = result.smoothed[-1] * (1 - smoothing**count) if count else 0.0
    return (smoothing * past + (1 - smoothing) * loss) / (1 - smoothing ** (count + 1))


def _suggest(result: LrFinderResult) -> None:
    logs = [math.log(lr) for lr in result.lrs]
    low = min(range(len(logs)), key=result.smoothed.__getitem__)
    end = max(low, 2)
    # A line through several points: the difference of two neighbours is mostly noise.
    reach = max(2, len(logs) // 12)
    slopes = [_slope(logs, result.smoothed, i, reach) for i in range(1, end)]
    steep = 1 + min(range(len(slopes)), key=slopes.__getitem__)
    result.steepest = result.lrs[steep]
    result.lowest = result.lrs[low]
    result.suggestion = min(result.steepest, result.lowest / 3)


def _slope(x: list[float], y: list[float], centre: int, reach: int) -> float:
    """Slope of the line through the points around ``centre``, by least squares."""
    part = slice(max(0, centre - reach), centre + reach + 1)
    mean_x, mean_y = statistics.fmean(x[part]), statistics.fmean(y[part])
    up = sum((a - mean_x) * (b - mean_y) for a, b in zip(x[part], y[part]))
    return up / sum((a - mean_x) ** 2 for a in x[part])


def plot_sweep(result: LrFinderResult, path: Path) -> Path:
    """Draw loss over learning rate as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(result.lrs, result.losses, color='0.8', label='loss')
    axes.plot(result.lrs, result.smoothed, color='tab:blue', label='smoothed')
    for name, colour in (('steepest', 'tab:orange'), ('suggestion', 'tab:green')):
        lr = getattr(result, name)
        axes.axvline(lr, color=colour, linestyle='--', label=f'{name} {lr:.2e}')
    axes.set(xscale='log', xlabel='learning rate', ylabel='training loss')
    axes.set_ylim(top=max(result.smoothed[0], result.smoothed[-1]) * 1.2)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def find_batch_size(
    runner: Runner,
    start: int = 1,
    max_size: int | None = None,
    memory_limit: int | float = 0.85,
    min_gain: float = 0.05,
    num_steps: int = 3,
) -> BatchSizeResult:
    """Double the batch until memory or speed says stop, then search between the last two.

    Steps are timed with batches of real items. On an accelerator a size that runs out of memory
    is caught; on the CPU, where running out would kill the process, the need of the next size
    is foreseen from the sizes before it.

    Args:
        runner: not training yet.
        start: first size.
        max_size: never more than this; by default, and at most, the length of the dataset.
        memory_limit: bytes, or share of the memory that is free now, that a step may take.
        min_gain: go on doubling only while the time for a sample falls by this share.
        num_steps: steps to time at each size, after one to warm up; the fastest counts.

    Raises:
        ValueError: if not even ``start`` fits, or the arguments make no search.
    """
    if start < 1 or num_steps < 1 or not 0 <= min_gain < 1 or memory_limit <= 0:
        raise ValueError(
            'find_batch_size needs start >= 1, num_steps >= 1, 0 <= min_gain < 1 and '
            f'memory_limit > 0, not {start}, {num_steps}, {min_gain} and {memory_limit}'
        )
    prepare(runner)
    loader = runner.train_dataloader
    dataset = getattr(loader, 'source', loader.dataset)  # ours wraps it to seed each item
    collate = getattr(loader.collate_fn, 'collate', loader.collate_fn)
    most = min(max_size or len(dataset), len(dataset))
    free, _ = chips.memory_info(runner.device)
    limit = int(memory_limit * free) if memory_limit <= 1 else int(memory_limit)

    def try_size(size: int) -> BatchTrial:
        return _try_batch(runner, collate, items, size, num_steps, limit, trials)

    trials: dict[int, BatchTrial] = {}
    with untouched(runner):
        items = _some_items(dataset, MOST_ITEMS)
        runner.model.train()
        best, reason = _search(try_size, trials, min(start, most), most, min_gain)
    chips.empty_cache()
    return BatchSizeResult(best, reason, [trials[size] for size in sorted(trials)])


def _search(
    try_size: Callable[[int], BatchTrial], trials: dict[int, BatchTrial], start: int, most: int,
    min_gain: float,
) -> tuple[int, str]:
    """The size to use and the reason: doubling, then halving the gap to what did not fit."""
    trials[start] = try_size(start)
    if not trials[start].fits:
        raise ValueError(
            f'a batch of {start} does not fit into memory: use a smaller model or smaller '
            'images, activation checkpointing, or a lower precision'
        )
    size, flat = start, 0
    while size < most:
        larger = min(2 * size, most)
        trials[larger] = try_size(larger)
        if not trials[larger].fits:
            good = _bisect(try_size, trials, size, larger)
            return _fastest(trials, min_gain), f'{good} is the largest that fits into memory'
        gain = 1 - trials[larger].seconds_per_sample / _best_time(trials, below=larger)
        # One size may be slow by chance; two in a row mean that larger is not faster.
        flat = 0 if gain >= min_gain else flat + 1
        if flat == 2:
            return _fastest(trials, min_gain), 'larger batches are no faster'
        size = larger
    return _fastest(trials, min_gain), f'{most} is the most allowed, or all of the dataset'


def _bisect(
    try_size: Callable[[int], BatchTrial], trials: dict[int, BatchTrial], good: int, bad: int
) -> int:
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        trials[middle] = try_size(middle)
        if trials[middle].fits:
            good = middle
        else:
            bad = middle
    return good


def _best_time(trials: dict[int, BatchTrial], below: int) -> float:
    return min(t.seconds_per_sample for s, t in trials.items() if s < below and t.fits)


def _fastest(trials: dict[int, BatchTrial], min_gain: float) -> int:
    """The smallest size within ``min_gain`` of the best speed: larger ones cost memory only."""
    fitting = {size: t.seconds_per_sample for size, t in trials.items() if t.fits}
    best = min(fitting.values())
    return min(size for size, seconds in fitting.items() if seconds * (1 - min_gain) <= best)


def _try_batch(
    runner: Runner, collate: Callable[[list[Any]], Any], items: list[Any], size: int,
    num_steps: int, limit: int, trials: dict[int, BatchTrial],
) -> BatchTrial:
    expected = _expected_memory(trials, size)
    if runner.device.type == 'cpu' and expected > limit:
        return BatchTrial(size, math.nan, expected, False)
    before = chips.memory_allocated(runner.device)
    chips.reset_peak_memory(runner.device)
    seconds = math.inf
    try:
        for step in range(num_steps + 1):
            begin = time.perf_counter()
            batch = collate([copy.copy(items[i % len(items)]) for i in range(size)])
            train_step(runner, batch, is_last=True)
            chips.synchronize(runner.device)
            if step:
                seconds = min(seconds, time.perf_counter() - begin)
    except (RuntimeError, MemoryError) as error:
        if not chips.is_out_of_memory(error):
            raise
        runner.optim_wrapper.zero_grad(set_to_none=True)
        chips.empty_cache()
        return BatchTrial(size, math.nan, limit, False)
    memory = max(chips.max_memory_allocated(runner.device) - before, 0)
    return BatchTrial(size, seconds / size, memory, memory <= limit)


def _expected_memory(trials: dict[int, BatchTrial], size: int) -> int:
    """Straight line through the two largest sizes so far."""
    known = [trials[s] for s in sorted(trials) if trials[s].fits][-2:]
    if len(known) < 2:
        return 0
    small, large = known
    slope = max(large.memory - small.memory, 0) / (large.size - small.size)
    return int(large.memory + slope * (size - large.size))


def prepare(runner: Runner) -> None:
    """Build loop, data and optimizer of a runner that has none yet."""
    if runner.optim_wrapper is None:
        runner.prepare_training()


@contextmanager
def untouched(runner: Runner) -> Iterator[None]:
    """Steps inside leave no trace: hooks are muted, and all state is put back at the end."""
    model, optim = runner.unwrapped_model, runner.optim_wrapper
    tensors = {n: t.detach().clone() for n, t in _all_tensors(model)}
    optimizer = copy.deepcopy(optim.state_dict())
    training = {name: m.training for name, m in model.named_modules()}
    call_hook = runner.call_hook
    runner.call_hook = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        with chips.preserve_rng():
            yield
    finally:
        runner.call_hook = call_hook  # type: ignore[method-assign]
        optim.zero_grad(set_to_none=True)
        optim.optimizer.state.clear()
        optim.load_state_dict(optimizer)
        with torch.no_grad():
            for name, tensor in _all_tensors(model):
                tensor.copy_(tensors[name])
        for name, module in model.named_modules():
            module.training = training[name]


def _all_tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _endless(runner: Runner) -> Iterator[Any]:
    while True:
        yield from runner.train_dataloader


def _some_items(dataset: Any, most: int) -> list[Any]:
    """Items spread over a dataset, made in this process."""
    count = min(most, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    return [item for item in (dataset[i] for i in indices) if item is not None]
