"""Share of items whose class is among the likeliest ones.

B batch · K classes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import predicted_labels, stack_probs, true_labels
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class Accuracy(Metric):
    """Top-k accuracy, in [0, 1].

    Args:
        topk: one or several numbers of guesses.
        name: prefix of the result names.
    """

    name = 'accuracy'

    def __init__(self, topk: int | Sequence[int] = 1, name: str | None = None):
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'topk must name numbers of guesses from 1 on, not {topk}')
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.correct = torch.zeros(len(self.topk), dtype=torch.int64)
        self.total = 0

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Count the items whose true class is among the k likeliest."""
        if not predictions:
            return
        truth_B = true_labels(samples)
        self.correct += torch.stack([c.sum() for c in self._hits(predictions, truth_B)])
        self.total += len(truth_B)

    def _hits(self, predictions: list[DataSample], truth_B: Tensor) -> list[Tensor]:
        if max(self.topk) == 1:
            return [predicted_labels(predictions) == truth_B]
        probs_BK = stack_probs(predictions)
        if max(self.topk) > probs_BK.shape[1]:
            raise ValueError(
                f'topk={max(self.topk)} guesses among only {probs_BK.shape[1]} classes')
        hit_Bk = probs_BK.topk(max(self.topk), dim=1).indices == truth_B[:, None]
        return [hit_Bk[:, :k].any(1) for k in self.topk]

    def compute(self) -> dict[str, float]:
        """``{'top1': ..., 'top5': ...}``."""
        if not self.total:
            raise ValueError('Accuracy has seen no item: is the evaluation dataset empty?')
        return {f'top{k}': c / self.total for k, c in zip(self.topk, self.correct.tolist())}

    def state(self) -> dict[str, Tensor | int]:
        """Counts."""
        return {'correct': self.correct, 'total': self.total}

    def merge(self, states: list[dict]) -> None:
        """Sum the counts of all processes."""
        self.correct = torch.stack([s['correct'] for s in states]).sum(0)
        self.total = sum(s['total'] for s in states)
