"""Curves of one run or of several, from their JSON-lines files.

Also a program (``python -m openlab.visualization.curves LOG OUT.png``), so that a training can
have its curves drawn by another process. It needs no torch.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openlab.utils.json_lines import is_number, read_rows

Rows = Sequence[Mapping[str, Any]]
COLOURS = ('#1f77e6', '#fa8214', '#28a745', '#dc323c', '#8c5ad2', '#00afb9', '#e65aaa', '#96693c')
MAX_TALL_LEGEND = 8
MAX_PANELS = 12
SMALLER_IS_BETTER = {
    'loss', 'error', 'perplexity', 'ppl', 'nll', 'brier', 'ece', 'mce', 'mae', 'mse', 'rmse',
    'epe', 'fid', 'kid', 'wer', 'cer', 'nme'}


def find_log(path: str | Path) -> Path:
    """Return the JSON-lines file of a run folder; a file stands for itself.

    Raises:
        FileNotFoundError: if there is none; the message names the runs near by.
    """
    path = Path(path)
    if path.is_file():
        return path
    if (path / 'log.jsonl').is_file():
        return path / 'log.jsonl'
    if not path.exists():
        raise FileNotFoundError(f'no run folder or log file at {path}')
    near = sorted(str(p.parent) for p in path.glob('*/log.jsonl'))
    hint = f'; runs below it: {", ".join(near[:5])}' if near else ''
    raise FileNotFoundError(f'{path} holds no log.jsonl{hint}')


def load_runs(paths: Sequence[str | Path]) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of several runs, by the shortest names that tell them apart."""
    files = [find_log(path) for path in paths]
    return {name: list(read_rows(file)) for name, file in zip(short_names(files), files)}


def short_names(files: Sequence[Path]) -> list[str]:
    """Names of run folders, with as much of the path as makes them differ."""
    folders = [f.resolve().parent if f.name == 'log.jsonl' else f.resolve() for f in files]
    for depth in range(1, max(len(f.parts) for f in folders) + 1):
        names = ['/'.join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [f'{name} ({i + 1})' for i, name in enumerate(names)]  # the same run named twice


def keys_of(rows: Rows, prefixes: Sequence[str] = ('train/', 'val/')) -> list[str]:
    """Names of all scalars, in order of appearance."""
    return list(dict.fromkeys(
        key for row in rows for key in row if key.startswith(tuple(prefixes))))


def series(rows: Rows, key: str, x: str = 'iter') -> tuple[list[float], list[float]]:
    """Points of one curve; of rows with the same x the last one counts."""
    points = {row[x]: row[key] for row in rows
              if x in row and is_number(row.get(key))}
    xs = sorted(points)
    return xs, [points[v] for v in xs]


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential mean whose first values are not drawn to zero.

    Args:
        values: values in order.
        weight: how much of the past is kept, 0 (none) to below 1.
    """
    result, mean, norm = [], 0.0, 0.0
    for value in values:
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        result.append(mean / norm)
    return result


def smaller_is_better(metric: str) -> bool:
    """Whether a metric falls as a model gets better, judged by the words of its name."""
    return not SMALLER_IS_BETTER.isdisjoint(metric.lower().replace('/', '_').split('_'))


def best_of(rows: Rows, key: str) -> tuple[int, float] | None:
    """Iteration and value of the best point of a curve; ``None`` for an empty one."""
    xs, ys = series(rows, key)
    if not ys:
        return None
    index = ys.index(min(ys) if smaller_is_better(key) else max(ys))
    return int(xs[index]), ys[index]


def plot_curves(runs: Mapping[str, Rows], out: str | Path, *, keys: Sequence[str] = (),
                smooth: float = 0.6, x: str = 'iter', title: str = '') -> Path:
    """Draw curves as a PNG (or what the ending of ``out`` says).

    One run gets a panel for each family of scalars (all losses together, all accuracies ...),
    several runs get a panel for each scalar with a line for each run.

    Args:
        runs: rows of each run, by name.
        out: file to write, in one rename.
        keys: scalars to draw; by default all of training and validation.
        smooth: weight of the past in the smoothed line, 0 for none; the raw one stays as shade.
        x: ``iter`` or ``epoch``.
        title: text over all panels.

    Raises:
        ValueError: if there is nothing to draw; the message names the scalars there are.
    """
    present = list(dict.fromkeys(key for rows in runs.values() for key in keys_of(rows, ('',))
                                 if any(is_number(row.get(key)) for row in rows)))
    chosen = list(keys) or [k for k in present if k.startswith(('train/', 'val/'))]
    missing = [k for k in chosen if k not in present]
    if missing or not chosen:
        raise ValueError(f'nothing to draw for {missing or "train/... and val/..."}; '
                         f'scalars in the log: {", ".join(present) or "none"}')
    if not keys:
        chosen = [k for k in chosen if not _repeats_loss(runs, k) and not _is_count(k)]
    panels = _panels(chosen, is_single=len(runs) == 1)
    dropped = panels[MAX_PANELS:]
    panels = panels[:MAX_PANELS]
    figure, axes = _figure(len(panels), title or (next(iter(runs)) if len(runs) == 1 else ''))
    for axis, (name, members) in zip(axes, panels):
        _draw_panel(axis, name, members, runs, smooth, x)
    if dropped:
        figure.text(0.99, 0.005, f'{len(dropped)} more: {", ".join(n for n, _ in dropped)[:90]}',
                    ha='right', fontsize=7, color='#777')
    return save_figure(figure, out)


def save_figure(figure: Any, out: str | Path, dpi: int = 130) -> Path:
    """Write a figure under another name first, so that nobody ever reads half a picture."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f'.{os.getpid()}.{out.name}')
    try:
        figure.savefig(partial, dpi=dpi)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _repeats_loss(runs: Mapping[str, Rows], key: str) -> bool:
    """Whether a loss is the only part of the total, and so the same curve."""
    return key.startswith('train/loss_') and all(
        row[key] == row.get('train/loss') for rows in runs.values() for row in rows if key in row)


def _is_count(key: str) -> bool:
    """Whether a scalar tells what others are means over, on a scale far from theirs."""
    return key.startswith('val/') and key.rpartition('/')[2].startswith('num_')


def _panels(keys: Sequence[str], is_single: bool) -> list[tuple[str, list[str]]]:
    """Title and scalars of each panel; losses first, then metrics, then the rest."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        stage, _, name = key.partition('/')
        family = key
        if is_single:
            words = name.split('/')
            if words[0].startswith('loss'):
                family = 'loss'
            elif stage == 'val':
                family = words[0]
        groups.setdefault(family, []).append(key)

    def rank(item: tuple[str, list[str]]) -> int:
        name = item[0]
        if name.split('/')[-1].startswith('loss'):
            return 0
        return 1 if item[1][0].startswith('val/') else 2

    return sorted(groups.items(), key=rank)


def _figure(count: int, title: str) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3 if count > 4 else 2)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(5.0 * columns, 3.4 * rows + 0.4), layout='constrained')
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=13, fontweight='bold', x=0.01, ha='left')
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _draw_panel(axis: Any, name: str, members: Sequence[str], runs: Mapping[str, Rows],
                smooth: float, x: str) -> None:
    several = len(runs) > 1
    drawn = [(key, run, *series(rows, key, x)) for key in members for run, rows in runs.items()]
    drawn = [d for d in drawn if d[2]]
    for number, (key, run, xs, ys) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        label = run if several else (key if len(drawn) > 1 else None)
        is_validation = key.startswith(('val/', 'test/'))
        if is_validation and (several or len(drawn) <= 4):
            best = _mark_best(axis, key, xs, ys, colour)
            label = f'{label} ({best})' if label else best
        if is_validation or len(xs) < 10 or smooth <= 0 or key.endswith('/lr'):
            axis.plot(xs, ys, color=colour, linewidth=1.6, label=label,
                      marker='o' if is_validation and len(xs) <= 40 else None, markersize=3)
        else:
            axis.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.25)
            axis.plot(xs, smoothed(ys, smooth), color=colour, linewidth=1.8, label=label)
    style_axis(axis, name, x)
    flat = [v for *_, ys in drawn for v in ys]
    if 'loss' in name and flat and min(flat) > 0 and max(flat) / min(flat) > 100:
        axis.set_yscale('log')
    if any(line.get_label()[0] != '_' for line in axis.get_lines()):
        # Many lines: smaller words in two columns cover less of them.
        many = len(drawn) > MAX_TALL_LEGEND
        axis.legend(fontsize=6 if many else 8, frameon=False, ncols=2 if many else 1)


def _mark_best(axis: Any, key: str, xs: Sequence[float], ys: Sequence[float],
               colour: str) -> str:
    """Ring the best point; returns the words for the legend, where they cannot overlap."""
    best = ys.index(min(ys) if smaller_is_better(key) else max(ys))
    axis.plot([xs[best]], [ys[best]], marker='o', markersize=7, color=colour,
              markerfacecolor='white', markeredgewidth=1.8, linestyle='none', zorder=5)
    return f'best {ys[best]:.4g} at {xs[best]:g}'


def style_axis(axis: Any, name: str, x: str) -> None:
    """Give a panel its title and the quiet look that all pictures share."""
    axis.set_title(name, fontsize=10.5, loc='left')
    axis.set_xlabel({'iter': 'iteration'}.get(x, x), fontsize=8.5)
    axis.tick_params(labelsize=8)
    axis.grid(True, color='#e6e6e6', linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ('top', 'right'):
        axis.spines[side].set_visible(False)
    if name.endswith('/lr'):
        axis.yaxis.set_major_formatter(lambda value, _: f'{value:.3g}')


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the curves of one log file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('log')
    parser.add_argument('out')
    args = parser.parse_args(argv)
    plot_curves(load_runs([args.log]), args.out)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
