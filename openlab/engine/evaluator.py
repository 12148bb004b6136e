"""Several metrics as one: fed by the loops, merged over processes, named ``metric/result``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist

from openlab.config.build import build
from openlab.metrics.base import Metric
from openlab.registry import METRICS


class Evaluator:
    """Feeds metrics and collects their results.

    Args:
        metrics: built metrics.
    """

    def __init__(self, metrics: Sequence[Metric]):
        self.metrics = list(metrics)

    @classmethod
    def from_config(cls, cfg: Any, path: str = 'val_evaluator') -> Evaluator:
        """Build from one metric's config or a list of them."""
        items = cfg if isinstance(cfg, (list, tuple)) else [cfg]
        return cls([build(item, METRICS, f'{path}[{i}]') for i, item in enumerate(items)])

    @property
    def dataset_meta(self) -> Mapping[str, Any]:
        """What is known about the dataset, such as ``classes``."""
        return self.metrics[0].dataset_meta if self.metrics else {}

    @dataset_meta.setter
    def dataset_meta(self, meta: Mapping[str, Any]) -> None:
        for metric in self.metrics:
            metric.dataset_meta = dict(meta)

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in self.metrics:
            metric.reset()

    def update(self, predictions: Sequence[Any], samples: Sequence[Any]) -> None:
        """Take in one batch; repeated items that only fill up a process are left out."""
        pairs = [
            (_on_cpu(p), _on_cpu(s)) for p, s in zip(predictions, samples)
            if not getattr(s, 'meta', {}).get('is_repeat', False)
        ]
        if not pairs:
            return
        ours, theirs = map(list, zip(*pairs))
        for metric in self.metrics:
            metric.update(ours, theirs)

    def evaluate(self) -> dict[str, float]:
        """Results over everything that all processes saw.

        Raises:
            ValueError: if two metrics give a result of the same name.
        """
        results: dict[str, float] = {}
        for metric in self.metrics:
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                states: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(states, metric.state())
                metric.merge(states)
            prefix = metric.name or type(metric).__name__.lower()
            for short, value in metric.compute().items():
                name = f'{prefix}/{short}'
                if name in results:
                    raise ValueError(f'two metrics give {name!r}; set name= on one of them')
                results[name] = value
        return results


def _on_cpu(sample: Any) -> Any:
    return sample.to('cpu') if hasattr(sample, 'to') else sample
