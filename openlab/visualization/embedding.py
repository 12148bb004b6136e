"""Features of many images as points in the plane (t-SNE).

N images · D features
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openlab.visualization.curves import save_figure
from openlab.visualization.draw import class_colour, class_name

MAX_LEGEND = 30


def embed(features: np.ndarray, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Place features (N, D) in the plane so that near ones stay near, (N, 2).

    Raises:
        ValueError: if there are fewer than four points, or values that are not finite.
        ModuleNotFoundError: without scikit-learn.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or len(features) < 4:
        raise ValueError(f'an embedding needs at least 4 feature vectors (N, D), got an array of '
                         f'shape {features.shape}')
    if not np.isfinite(features).all():
        raise ValueError('features hold NaN or infinite values')
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('t-SNE needs scikit-learn; install it with: '
                                  'pip install scikit-learn', name='sklearn') from error

    perplexity = min(perplexity, (len(features) - 1) / 3)  # what scikit-learn can solve
    return TSNE(2, perplexity=perplexity, random_state=seed, init='pca').fit_transform(features)


def draw_embedding(points: np.ndarray, labels: Sequence[int], classes: Sequence[str] | None,
                   out: str | Path, title: str = 't-SNE') -> Path:
    """Draw points coloured by class, with the name of a class at its median point.

    Args:
        points: places in the plane, (N, 2).
        labels: class of each point.
        classes: names of the classes.
        out: file to write.
        title: text over the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    points, numbers = np.asarray(points), np.asarray(labels)
    figure = Figure(figsize=(8.2, 7), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    present = np.unique(numbers)
    for index in present:
        chosen = points[numbers == index]
        colour = '#%02x%02x%02x' % class_colour(int(index))  # noqa: UP031 (a colour in hex)
        name = class_name(int(index), classes)
        axis.scatter(chosen[:, 0], chosen[:, 1], s=14, color=colour, alpha=0.75, linewidths=0,
                     label=name)
        if len(present) <= MAX_LEGEND:
            x, y = np.median(chosen, axis=0)
            axis.text(x, y, name, fontsize=11, fontweight='bold',
                      color=colour, ha='center', va='center',
                      path_effects=[withStroke(linewidth=3, foreground='white')])
    axis.set_title(f'{title}: {len(points)} images, {len(present)} classes', loc='left',
                   fontsize=11)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect('equal', 'datalim')
    for side in axis.spines.values():
        side.set_color('#ddd')
    if len(present) <= MAX_LEGEND:
        axis.legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    return save_figure(figure, out)
