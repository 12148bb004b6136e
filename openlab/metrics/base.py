"""What the engine asks of a metric: bounded state, exact sums over processes, one result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from openlab.structures.data_sample import DataSample


class Metric(ABC):
    """Base of all metrics.

    ``name`` prefixes the results (``accuracy/top1``). A metric sees each prediction once, with
    its truth, and keeps only what its result needs.

    Args:
        name: prefix of the result names; by default the class decides.
    """

    name: str = ''

    def __init__(self, name: str | None = None):
        if name is not None:
            self.name = name
        self.dataset_meta: dict[str, Any] = {}
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Forget everything seen."""

    @abstractmethod
    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Take in one batch; both lists have the same length and order, on the CPU."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Results by short name, such as ``{'top1': 0.97}``, over all that was seen."""

    @abstractmethod
    def state(self) -> Any:
        """What ``merge`` of another process needs, as tensors and plain types."""

    @abstractmethod
    def merge(self, states: list[Any]) -> None:
        """Replace the own state by that of all processes (own one included), in rank order."""
