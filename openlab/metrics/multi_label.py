"""Precision, recall and F1 of items with any number of labels, as papers report them.

B batch · K classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import multi_label_truth, stack_probs
from openlab.metrics.precision_recall import scores_of
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class MultiLabelF1(Metric):
    """``CP``, ``CR``, ``CF1``: means over classes; ``OP``, ``OR``, ``OF1``: over all entries.

    Zhao et al., Multi-Label Image Recognition with Graph Convolutional Networks,
    https://arxiv.org/abs/1904.03582, section 4.1. ``CF1`` is the harmonic mean of ``CP`` and
    ``CR``, not the mean of the F1 of each class, which ``PrecisionRecallF1`` gives as macro F1.
    All classes count; a ratio of 0 to 0 is 0. Entries that truth does not know (-1) are left out.
    State: three counts for each class.

    Args:
        threshold: an item is found to have the classes that are at least this probable.
        topk: it has at most this many of them, the likeliest ones. With ``threshold=0`` exactly
            so many, as in "top 3" columns.
        name: prefix of the result names.
    """

    name = 'multilabel'

    def __init__(self, threshold: float = 0.5, topk: int | None = None, name: str | None = None):
        if topk is not None and topk < 1:
            raise ValueError(f'topk must be at least 1, got {topk}')
        self.threshold = threshold
        self.topk = topk
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.counts: Tensor | None = None  # true positives, predicted, true: (3, K)

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Count what was found, what was right and what there was."""
        if not predictions:
            return
        truth_BK, probs_BK = multi_label_truth(samples), stack_probs(predictions)
        found = probs_BK >= self.threshold
        if self.topk is not None:
            best = probs_BK.topk(min(self.topk, probs_BK.shape[1]), dim=1).indices
            found &= torch.zeros_like(found).scatter(1, best, True)
        found &= truth_BK >= 0
        is_true = truth_BK == 1
        new = torch.stack([(found & is_true).sum(0), found.sum(0), is_true.sum(0)])
        self.counts = new if self.counts is None else self.counts + new

    def compute(self) -> dict[str, float]:
        """The six results, each in [0, 1]."""
        if self.counts is None:
            raise ValueError('MultiLabelF1 has seen no item: is the dataset empty?')
        precision, recall, _ = scores_of(self.counts).mean(1).tolist()
        overall = scores_of(self.counts.sum(1, keepdim=True))[:, 0].tolist()
        both = precision + recall
        results = {'CP': precision, 'CR': recall,
                   'CF1': 2 * precision * recall / both if both else 0.0}
        return results | dict(zip(('OP', 'OR', 'OF1'), overall))

    def state(self) -> Tensor | None:
        """Counts (3, K)."""
        return self.counts

    def merge(self, states: list[Tensor | None]) -> None:
        """Sum the counts of all processes; one that saw nothing has none."""
        seen = [s for s in states if s is not None]
        self.counts = torch.stack(seen).sum(0) if seen else None
