"""How well the nearest neighbours of an item tell its class: a measure of features.

N items · C channels · K classes · k neighbours
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import true_labels
from openlab.metrics.neighbours import knn_votes
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class KNNAccuracy(Metric):
    """Share of items that their k nearest neighbours give the right class, in [0, 1].

    The neighbours of an item are the other items of the evaluated set (leave one out), by cosine
    similarity s. Each votes for its class with the weight exp(s / temperature), as in Wu et al.,
    https://arxiv.org/abs/1805.01978, section 3.4. Nothing is trained: the result says how good
    features are as they are. It reads ``extra['feats']`` of predictions.

    Args:
        k: one or several numbers of neighbours.
        temperature: small values let the nearest decide.
        name: prefix of the result names.
    """

    name = 'knn'

    def __init__(self, k: int | Sequence[int] = 20, temperature: float = 0.07,
                 name: str | None = None):
        self.k = (k,) if isinstance(k, int) else tuple(k)
        if not self.k or min(self.k) < 1:
            raise ValueError(f'k must name numbers of neighbours from 1 on, not {k}')
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.feats: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Keep the direction of the features, in half precision, and the label of each item."""
        if not predictions:
            return
        if any('feats' not in p.extra for p in predictions):
            raise ValueError("KNNAccuracy reads features from extra['feats'] of predictions, which "
                             'self-supervised algorithms give; this model gives none')
        feats = torch.stack([p.extra['feats'].float() for p in predictions])
        self.feats.append(F.normalize(feats, dim=1).half())
        self.labels.append(true_labels(samples))

    def compute(self) -> dict[str, float]:
        """``{'top1_k20': ...}`` for each k."""
        if not self.labels:
            raise ValueError('KNNAccuracy has seen no item: is the evaluation dataset empty?')
        feats, labels = torch.cat(self.feats).float(), torch.cat(self.labels)
        if max(self.k) >= len(labels):
            raise ValueError(f'k={max(self.k)} neighbours among only {len(labels) - 1} other items')
        votes = {k: knn_votes(feats, labels, k=k, temperature=self.temperature) for k in self.k}
        return {f'top1_k{k}': (vote.argmax(1) == labels).double().mean().item()
                for k, vote in votes.items()}

    def state(self) -> dict[str, Any]:
        """Features and labels."""
        return {'feats': self.feats, 'labels': self.labels}

    def merge(self, states: list[dict]) -> None:
        """Join the items of all processes."""
        self.feats = [part for state in states for part in state['feats']]
        self.labels = [part for state in states for part in state['labels']]
