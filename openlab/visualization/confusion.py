"""The confusion matrix as a picture: which class is taken for which.

K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openlab.visualization.curves import save_figure

MAX_NUMBERED = 30  # more classes than this, and numbers in the cells cannot be read


def confusion_matrix(truth: Sequence[int], predicted: Sequence[int],
                     num_classes: int) -> np.ndarray:
    """Count pairs: rows are the truth, columns the prediction, (K, K)."""
    pairs = np.asarray(truth, np.int64) * num_classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def draw_confusion(matrix: np.ndarray, classes: Sequence[str] | None, out: str | Path,
                   title: str = 'Confusion matrix') -> Path:
    """Draw counts, coloured by their share of the row.

    Args:
        matrix: counts, rows are the truth, (K, K).
        classes: names of the classes.
        out: file to write.
        title: text over the picture.

    Raises:
        ValueError: if the matrix is not square or does not fit the classes.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f'a confusion matrix is square, not of shape {matrix.shape}')
    count = len(matrix)
    if classes is not None and len(classes) != count:
        raise ValueError(f'{len(classes)} class names for a matrix of {count} classes')
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(classes) if classes is not None else [str(i) for i in range(count)]
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = float(np.clip(0.45 * count + 2.2, 4.5, 16))
    figure = Figure(figsize=(side + 0.8, side), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    picture = axis.imshow(share, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, shrink=0.8, label='share of the true class')
    right = np.trace(matrix) / max(matrix.sum(), 1)
    axis.set_title(f'{title}: {right:.2%} right', loc='left', fontsize=11)
    axis.set_xlabel('predicted')
    axis.set_ylabel('truth')
    step = max(1, count // 40)
    ticks = range(0, count, step)
    is_long = max(len(n) for n in names) > 3
    axis.set_xticks(ticks, [names[i] for i in ticks], fontsize=8, rotation=45 if is_long else 0,
                    ha='right' if is_long else 'center')
    axis.set_yticks(ticks, [names[i] for i in ticks], fontsize=8)
    if count <= MAX_NUMBERED:
        for i, j in zip(*np.nonzero(matrix)):
            axis.text(j, i, str(matrix[i, j]), ha='center', va='center', fontsize=8,
                      color='white' if share[i, j] > 0.5 else ('#b00020' if i != j else '#222'))
    return save_figure(figure, out)
