"""Precision, recall and F1, of each class and over all of them.

B batch · K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import (
    class_names,
    count_classes,
    multi_label_truth,
    predicted_labels,
    stack_probs,
    true_labels,
)
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample

Average = Literal['macro', 'micro', 'none']


@METRICS.register_module()
class PrecisionRecallF1(Metric):
    """How many finds were right, how many of the right were found, and their harmonic mean.

    ``macro`` is the mean over classes (those that occur neither in truth nor in predictions are
    left out), ``micro`` counts all classes together, ``none`` gives each class and its number of
    true items (support). With several averages, the names of the results say which: ``f1_macro``.
    A ratio of 0 to 0 counts as 0. State: three counts for each class.

    Args:
        average: one or several of ``'macro'``, ``'micro'`` and ``'none'``.
        threshold: take several labels for one item: every class at least this probable, against
            truth in ``label_probs`` of 0, 1 and -1 (not known, left out). ``None`` takes the one
            likeliest class.
        num_classes: number of classes; by default what dataset or predictions say.
        name: prefix of the result names.
    """

    name = 'classes'

    def __init__(self, average: Average | Sequence[Average] = 'macro',
                 threshold: float | None = None, num_classes: int | None = None,
                 name: str | None = None):
        self.average = (average,) if isinstance(average, str) else tuple(average)
        for value in self.average:
            if value not in ('macro', 'micro', 'none'):
                raise ValueError(f"average is 'macro', 'micro' or 'none', not {value!r}")
        self.threshold = threshold
        self.num_classes = num_classes
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.counts: Tensor | None = None  # true positives, predicted, true: (3, K)

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Count what was found, what was right and what there was."""
        if not predictions:
            return
        num_classes = count_classes(self.num_classes, self.dataset_meta, predictions)
        if self.threshold is None:
            guess_BK = F.one_hot(predicted_labels(predictions), num_classes)
            truth_BK = F.one_hot(true_labels(samples), num_classes)
        else:
            truth_BK = multi_label_truth(samples).long()
            guess_BK = ((stack_probs(predictions) >= self.threshold) & (truth_BK >= 0)).long()
            truth_BK = truth_BK.clamp(min=0)
        new = torch.stack([(guess_BK * truth_BK).sum(0), guess_BK.sum(0), truth_BK.sum(0)])
        self.counts = new if self.counts is None else self.counts + new

    def compute(self) -> dict[str, float]:
        """Results of all averages."""
        if self.counts is None:
            raise ValueError('PrecisionRecallF1 has seen no item: is the dataset empty?')
        results: dict[str, float] = {}
        for average in self.average:
            suffix = f'_{average}' if len(self.average) > 1 else ''
            if average == 'none':
                results |= self._of_each_class()
            elif average == 'micro':
                values = scores_of(self.counts.sum(1, keepdim=True))[:, 0]
                results |= _named(values, suffix)
            else:
                occurs = self.counts[1:].sum(0) > 0
                results |= _named(scores_of(self.counts[:, occurs]).mean(1), suffix)
        return results

    def _of_each_class(self) -> dict[str, float]:
        assert self.counts is not None
        results: dict[str, float] = {}
        names = class_names(self.dataset_meta, self.counts.shape[1])
        scores_K = scores_of(self.counts)
        for k, name in enumerate(names):
            results |= _named(scores_K[:, k], f'_{name}')
            results[f'support_{name}'] = float(self.counts[2, k])
        return results

    def state(self) -> Tensor | None:
        """Counts (3, K)."""
        return self.counts

    def merge(self, states: list[Tensor | None]) -> None:
        """Sum the counts of all processes; one that saw nothing has none."""
        seen = [s for s in states if s is not None]
        self.counts = torch.stack(seen).sum(0) if seen else None


def scores_of(counts: Tensor) -> Tensor:
    """Precision, recall and F1, (3, K), of true positives, predicted and true, (3, K)."""
    hits, predicted, true = counts.double()
    precision = hits / predicted.clamp(min=1)
    recall = hits / true.clamp(min=1)
    f1 = 2 * hits / (predicted + true).clamp(min=1)
    return torch.stack([precision, recall, f1])


def _named(values: Tensor, suffix: str) -> dict[str, Any]:
    return {f'{n}{suffix}': v for n, v in zip(('precision', 'recall', 'f1'), values.tolist())}
