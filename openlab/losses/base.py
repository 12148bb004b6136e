"""What a head of a classifier asks of its loss.

B batch · K classes · ... any further dimensions
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class ClassificationLoss(nn.Module, ABC):
    """Compares logits with targets, and knows what its mean is over and what logits mean."""

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss, (), of logits (B, K, ...) and indices or probabilities."""

    @abstractmethod
    def num_items(self, logits: Tensor, target: Tensor) -> Tensor:
        """What the mean divides by, ()."""

    @abstractmethod
    def probs(self, logits: Tensor) -> Tensor:
        """Class probabilities, (B, K, ...)."""
