"""Read labels and probabilities out of samples, for all classification metrics.

B batch · K classes
"""

from __future__ import annotations

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
