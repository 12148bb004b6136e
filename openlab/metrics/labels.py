"""Read labels and probabilities out of samples, for all classification metrics.

B batch · K classes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from openlab.structures.data_sample import DataSample


def true_labels(samples: list[DataSample]) -> Tensor:
    """Class indices (B,); where truth is soft (mixup, cutmix), its likeliest class.

    Raises:
        ValueError: if a sample has neither ``label_probs`` nor ``label``.
    """
    return _labels(s.label if s.label_probs is None else s.label_probs.argmax() for s in samples)


def predicted_labels(predictions: list[DataSample]) -> Tensor:
    """Class indices (B,): ``label``, or where that is missing the likeliest class.

    Raises:
        ValueError: if a prediction has neither ``label`` nor ``label_probs``.
    """
    return _labels(
        p.label_probs.argmax() if p.label is None and p.label_probs is not None else p.label
        for p in predictions)


def _labels(values: Iterable[Tensor | None]) -> Tensor:
    labels = list(values)
    if any(v is None for v in labels):
        raise ValueError(f'sample {labels.index(None)} of a batch has neither label nor '
                         'label_probs, which metrics of classification compare')
    return torch.tensor([int(v) for v in labels if v is not None], dtype=torch.int64)


def stack_probs(samples: list[DataSample]) -> Tensor:
    """Class probabilities (B, K).

    Raises:
        ValueError: if a sample has none.
    """
    if any(s.label_probs is None for s in samples):
        raise ValueError('this metric needs label_probs in predictions; the head gave only label')
    return torch.stack([s.label_probs.float() for s in samples if s.label_probs is not None])


def multi_label_truth(samples: list[DataSample]) -> Tensor:
    """Which classes items have: 1, 0, or -1 where truth does not tell, (B, K) int8.

    Raises:
        ValueError: if a sample has no ``label_probs``.
    """
    if any(s.label_probs is None for s in samples):
        raise ValueError('this metric needs truth with label_probs of 0 and 1 (multi_label=True '
                         'of a list dataset, or the transform GatherLabels)')
    truth = torch.stack([s.label_probs for s in samples if s.label_probs is not None])
    return torch.where(truth < 0, -1, (truth >= 0.5).to(torch.int8)).to(torch.int8)


def count_classes(given: int | None, dataset_meta: Mapping[str, Any],
                  predictions: list[DataSample]) -> int:
    """Number of classes: as given, else as the dataset names them, else as they are predicted.

    Raises:
        ValueError: if nothing tells.
    """
    if given is not None:
        return given
    if dataset_meta.get('classes'):
        return len(dataset_meta['classes'])
    if predictions[0].label_probs is not None:
        return len(predictions[0].label_probs)
    raise ValueError('the number of classes is unknown: predictions hold no label_probs and the '
                     'dataset names no classes; give num_classes to the metric')


def class_names(dataset_meta: Mapping[str, Any], num_classes: int) -> list[str]:
    """Names of the classes, or their indices where the dataset names none."""
    names = list(dataset_meta.get('classes') or ())
    return names if len(names) == num_classes else [str(k) for k in range(num_classes)]
