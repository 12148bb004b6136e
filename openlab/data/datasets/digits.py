"""The handwritten digits that scikit-learn ships: real data that needs no download."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from openlab.data.datasets.base import Annotations, as_labels
from openlab.data.datasets.in_memory import InMemoryImages
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class Digits(InMemoryImages):
    """1797 images of 8 x 8 pixels, ten classes, in a fixed stratified split.

    Each class gives the same share to the held-out split, chosen once by a fixed seed, so that
    results of different runs and machines compare.

    Args:
        split: ``train`` (1348 images) or ``val`` (449 images), ``all`` for both.
        pipeline: transforms, applied in order to each item.
    """

    def __init__(self, split: Literal['train', 'val', 'all'] = 'train',
                 pipeline: Sequence[Transform] = ()):
        super().__init__('', pipeline)
        if split not in ('train', 'val', 'all'):
            raise ValueError(f"split must be 'train', 'val' or 'all', got {split!r}")
        self.split = split

    def load(self) -> Annotations:
        """Read the arrays inside scikit-learn."""
        counts, targets = read_digits()
        labels = as_labels(targets)
        keep = np.arange(len(labels))
        if self.split != 'all':
            held_out = stratified_split(labels, share=0.25, seed=0)
            keep = np.flatnonzero(held_out == (self.split == 'val'))
        # Intensities are counts from 0 to 16.
        images = np.round(counts[keep] * (255 / 16)).astype(np.uint8)
        self.hold(images)
        table = RecordTable({'label': labels[keep], 'img_id': keep.astype(np.int64)})
        return Annotations(table, tuple(str(i) for i in range(10)))


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the file inside scikit-learn: its own reader would import all of that library first.

    Returns:
        Intensities, (1797, 8, 8) from 0 to 16, and digits, (1797,).

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    spec = importlib.util.find_spec('sklearn')
    if spec is None or not spec.submodule_search_locations:
        raise ImportError('the Digits dataset reads the copy inside scikit-learn: '
                          'pip install scikit-learn')
    file = Path(spec.submodule_search_locations[0]) / 'datasets' / 'data' / 'digits.csv.gz'
    with gzip.open(file, 'rt', encoding='utf-8') as lines:
        rows = np.loadtxt(lines, delimiter=',', dtype=np.int64)
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]


def stratified_split(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose the same share of every class.

    Returns:
        True for the items chosen, (N,) bool; ``round(share * N)`` of them.
    """
    rng = np.random.default_rng(seed)
    # Items of a class are spread evenly over [0, 1): the lowest `share` of all ranks holds the
    # same share of every class, up to one item, and the total is exact.
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        rank[members] = (np.arange(len(members)) + rng.random()) / len(members)
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.argsort(rank, kind='stable')[: round(share * len(labels))]] = True
    return chosen
