"""Mean average precision of items with any number of labels.

N items · K classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import multi_label_truth, stack_probs
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class MultiLabelAveragePrecision(Metric):
    """Area under the precision-recall steps of each class, and its mean (``mAP``).

    Entries of truth that are not known (-1) are left out: difficult objects of VOC, say.
    Ranking needs all scores: state is 5 bytes for each item and class (100,000 items of 80
    classes: 40 MB). Classes without a true item are left out of the mean.

    Args:
        per_class: report each class as well.
        name: prefix of the result names.
    """

    name = 'multilabel'

    def __init__(self, per_class: bool = False, name: str | None = None):
        self.per_class = per_class
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.scores: list[Tensor] = []
        self.truth: list[Tensor] = []

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Keep scores and truth (``label_probs`` of 0, 1 or -1) of a batch."""
        if predictions:
            self.scores.append(stack_probs(predictions))
            self.truth.append(multi_label_truth(samples))

    def compute(self) -> dict[str, float]:
        """``mAP``, and ``AP_<class>`` of each class if asked for."""
        if not self.scores:
            raise ValueError('MultiLabelAveragePrecision has seen no item: is the dataset empty?')
        scores_NK, truth_NK = torch.cat(self.scores), torch.cat(self.truth)
        values = [average_precision(s[t >= 0], t[t >= 0] == 1)
                  for s, t in zip(scores_NK.T, truth_NK.T)]
        known = [v for v in values if v is not None]
        results = {'mAP': sum(known) / len(known) if known else 0.0}
        if self.per_class:
            names = self.dataset_meta.get('classes') or range(len(values))
            results |= {f'AP_{n}': v for n, v in zip(names, values) if v is not None}
        return results

    def state(self) -> dict[str, list[Tensor]]:
        """Scores and truth of all batches."""
        return {'scores': self.scores, 'truth': self.truth}

    def merge(self, states: list[dict[str, list[Tensor]]]) -> None:
        """Put the batches of all processes one after the other."""
        self.scores = [t for s in states for t in s['scores']]
        self.truth = [t for s in states for t in s['truth']]


def average_precision(scores: Tensor, truth: Tensor) -> float | None:
    """Sum over thresholds of precision times the gain in recall; ``None`` without true items.

    Args:
        scores: (N,).
        truth: (N,) bool.
    """
    if not truth.any():
        return None
    order = scores.argsort(descending=True)
    scores, hits = scores[order], truth[order].double().cumsum(0)
    # Equal scores are one threshold: only the last of them counts.
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    rank = torch.arange(1, len(scores) + 1, dtype=torch.float64)[last]
    hits = hits[last]
    gain = torch.diff(hits, prepend=torch.zeros(1, dtype=torch.float64)) / hits[-1]
    return (hits / rank * gain).sum().item()
