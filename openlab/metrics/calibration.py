"""Does a probability of 0.8 mean right in eight of ten cases?

Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

import torch
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import stack_probs, true_labels
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class CalibrationError(Metric):
    """Distance between confidence and accuracy, over bins of confidence.

    ``ece`` is the mean distance weighted by the items of each bin, ``mce`` the largest one. Only
    three sums for each bin are kept.

    Args:
        num_bins: number of equal bins of (0, 1]; a value on an edge belongs to the lower bin.
        name: prefix of the result names.
    """

    name = 'calibration'

    def __init__(self, num_bins: int = 15, name: str | None = None):
        if num_bins < 1:
            raise ValueError(f'num_bins must be at least 1, not {num_bins}')
        self.num_bins = num_bins
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        # items, correct ones and sum of confidences of each bin
        self.sums = torch.zeros(3, self.num_bins, dtype=torch.float64)

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Sort the batch into bins."""
        if not predictions:
            return
        confidence_B, guess_B = stack_probs(predictions).max(1)
        correct_B = guess_B == true_labels(samples)
        edges = torch.linspace(0, 1, self.num_bins + 1)
        bin_B = (torch.bucketize(confidence_B, edges) - 1).clamp(0, self.num_bins - 1)
        values = torch.stack([torch.ones_like(confidence_B), correct_B, confidence_B]).double()
        self.sums.index_add_(1, bin_B, values)

    def compute(self) -> dict[str, float]:
        """Expected (``ece``) and maximum (``mce``) calibration error."""
        items, correct, confidence = self.sums
        if not items.sum():
            raise ValueError('CalibrationError has seen no item: is the dataset empty?')
        gap = (correct - confidence).abs()
        return {'ece': (gap.sum() / items.sum()).item(),
                'mce': (gap / items.clamp(min=1)).max().item()}

    def state(self) -> Tensor:
        """Sums of each bin, (3, bins)."""
        return self.sums

    def merge(self, states: list[Tensor]) -> None:
        """Add the sums of all processes."""
        self.sums = torch.stack(states).sum(0)
