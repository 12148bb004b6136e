"""The learning rate over a whole training, before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openlab.visualization.curves import COLOURS, save_figure, style_axis


def draw_schedule(values: Mapping[str, Sequence[float]], out: str | Path, *,
                  iters_per_epoch: int | None = None, title: str = '') -> Path:
    """Draw one value for each iteration, such as the learning rate of each group.

    Args:
        values: values by name; the first is that of the first iteration.
        out: file to write.
        iters_per_epoch: length of an epoch; adds an axis that counts epochs.
        title: text over the picture.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not any(len(v) for v in values.values()):
        raise ValueError('a schedule needs at least one iteration')
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for number, (name, series) in enumerate(values.items()):
        axis.plot(range(1, len(series) + 1), series, color=COLOURS[number % len(COLOURS)],
                  linewidth=1.8, label=name)
    style_axis(axis, title or 'schedule', 'iter')
    axis.yaxis.set_major_formatter(lambda value, _: f'{value:.3g}')
    first = [float(v) for v in next(iter(values.values()))]
    top = max(first)
    summary = (f'start {first[0]:.3g} · highest {top:.3g} at {first.index(top) + 1} · '
               f'end {first[-1]:.3g}')
    axis.set_ylabel(next(iter(values)) if len(values) == 1 else 'value', fontsize=9)
    axis.set_title(summary, loc='right', fontsize=8.5, color='#555')
    if len(values) > 1:
        axis.legend(fontsize=8, frameon=False)
    if iters_per_epoch:
        def to_epochs(iters: Any) -> Any:
            return np.asarray(iters) / iters_per_epoch

        def to_iters(epochs: Any) -> Any:
            return np.asarray(epochs) * iters_per_epoch

        upper = axis.secondary_xaxis('top', functions=(to_epochs, to_iters))
        upper.set_xlabel('epoch', fontsize=8.5)
        upper.tick_params(labelsize=8)
    return save_figure(figure, out)
