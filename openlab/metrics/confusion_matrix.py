"""Which classes are taken for which others.

K classes
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import class_names, count_classes, predicted_labels, true_labels
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class ConfusionMatrix(Metric):
    """Counts of each pair of true and predicted class; only the K x K counts are kept.

    Its results are ``accuracy``, ``balanced_accuracy`` (mean recall over the classes that occur)
    and ``kappa`` (Cohen's agreement beyond chance). The counts themselves are ``matrix``, rows
    true and columns predicted; ``worst`` lists the most frequent mistakes.

    Args:
        num_classes: number of classes (K); by default what dataset or predictions say.
        out_file: where to write the matrix as CSV at each evaluation.
        name: prefix of the result names.
    """

    name = 'confusion'

    def __init__(self, num_classes: int | None = None, out_file: str | None = None,
                 name: str | None = None):
        self.num_classes = num_classes
        self.out_file = out_file
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.matrix: Tensor | None = None

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Count pairs of true and predicted class."""
        if not predictions:
            return
        K = count_classes(self.num_classes, self.dataset_meta, predictions)
        truth, guess = true_labels(samples), predicted_labels(predictions)
        highest = int(max(truth.max(), guess.max()))
        if highest >= K or min(truth.min(), guess.min()) < 0:
            raise ValueError(f'labels must lie in 0 to {K - 1}, but truth or predictions hold '
                             f'{highest if highest >= K else "a negative one"}')
        new = torch.bincount(truth * K + guess, minlength=K * K).reshape(K, K)
        self.matrix = new if self.matrix is None else self.matrix + new

    def compute(self) -> dict[str, float]:
        """Accuracy, balanced accuracy and kappa."""
        if self.matrix is None:
            raise ValueError('ConfusionMatrix has seen no item: is the dataset empty?')
        if self.out_file:
            self.write(self.out_file)
        counts = self.matrix.double()
        total, true, guessed = counts.sum(), counts.sum(1), counts.sum(0)
        recall = counts.diagonal()[true > 0] / true[true > 0]
        observed = counts.trace() / total
        expected = (true * guessed).sum() / total**2
        kappa = (observed - expected) / (1 - expected) if expected < 1 else torch.tensor(1.0)
        return {'accuracy': observed.item(), 'balanced_accuracy': recall.mean().item(),
                'kappa': kappa.item()}

    def worst(self, count: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: true class, predicted class, how often."""
        if self.matrix is None:
            return []
        names = class_names(self.dataset_meta, len(self.matrix))
        wrong = self.matrix.clone().fill_diagonal_(0).flatten()
        order = wrong.argsort(descending=True, stable=True)[:count].tolist()
        K = len(names)
        return [(names[i // K], names[i % K], int(wrong[i])) for i in order if wrong[i]]

    def write(self, path: str | Path) -> None:
        """Write the counts as CSV: a row for each true class, a column for each predicted one."""
        if self.matrix is None:
            return
        names = class_names(self.dataset_meta, len(self.matrix))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            writer.writerow(['true \\ predicted', *names])
            writer.writerows([n, *row] for n, row in zip(names, self.matrix.tolist()))

    def state(self) -> Tensor | None:
        """The counts, (K, K)."""
        return self.matrix

    def merge(self, states: list[Tensor | None]) -> None:
        """Sum the counts of all processes; one that saw nothing has none."""
        seen = [s for s in states if s is not None]
        self.matrix = torch.stack(seen).sum(0) if seen else None
