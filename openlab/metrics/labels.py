"""Read labels and probabilities out of samples, for all classification metrics.

B batch · K classes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openlab.structures.data_sample import DataSample


def true_labels(samples: list[DataSample]) -> Tensor:
    """Class indices (B,); a sample that has only probabilities counts as its likeliest class.

    Raises:
        ValueError: if a sample has neither.
    """
    labels = []
    for sample in samples:
        if sample.label is not None:
            labels.append(int(sample.label))
        elif sample.label_probs is not None:
            labels.append(int(sample.label_probs.argmax()))
        else:
            raise ValueError(f'a sample has neither label nor label_probs: {sample!r}')
    return torch.tensor(labels, dtype=torch.int64)


def stack_probs(samples: list[DataSample]) -> Tensor:
    """Class probabilities (B, K).

    Raises:
        ValueError: if a sample has none.
    """
    if any(s.label_probs is None for s in samples):
        raise ValueError('this metric needs label_probs in predictions; the head gave only label')
    return torch.stack([s.label_probs.float() for s in samples if s.label_probs is not None])


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
