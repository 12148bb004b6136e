"""What the nearest neighbours of an item say of its class.

* Wu et al., https://arxiv.org/abs/1805.01978, section 3.4
* Caron et al., DINO, https://arxiv.org/abs/2104.14294, appendix F

N items to learn from · M items to judge · D features · K classes
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_votes(train_feats: Tensor, train_labels: Tensor, test_feats: Tensor | None = None,
              k: int = 20, temperature: float = 0.07, num_classes: int | None = None) -> Tensor:
    """Votes of the k nearest neighbours by angle, each weighing exp(cosine / temperature).

    Args:
        train_feats: (N, D).
        train_labels: (N,).
        test_feats: (M, D); by default each training item is judged by the others.
        k: number of neighbours; all there are where there are fewer.
        temperature: the smaller, the more the nearest ones count.
        num_classes: K; by default as labels tell.

    Returns:
        Shares of the votes, (M, K).

    Raises:
        ValueError: if shapes do not fit or k or temperature is not positive.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f'k and temperature must be positive, got {k} and {temperature}')
    check_features(train_feats, train_labels)
    leaves_out = test_feats is None
    keys = F.normalize(train_feats.float(), dim=1)
    queries = keys if test_feats is None else F.normalize(test_feats.float(), dim=1)
    if queries.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f'features to judge are {tuple(queries.shape)}, those to learn from '
                         f'{tuple(keys.shape)}')
    k = min(k, len(keys) - leaves_out)
    if k < 1:
        raise ValueError('one item has no neighbour; give more items')
    num_classes = num_classes or int(train_labels.max()) + 1
    rows = max(2**26 // len(keys), 1)  # 256 MiB of similarities at a time
    votes = []
    for start in range(0, len(queries), rows):
        similarity_MN = queries[start:start + rows] @ keys.T
        if leaves_out:
            own = torch.arange(len(similarity_MN), device=keys.device)
            similarity_MN[own, start + own] = -2
        nearest = similarity_MN.topk(k, dim=1)
        # A common factor of all votes changes nothing; without it small temperatures overflow.
        weights = ((nearest.values - nearest.values[:, :1]) / temperature).exp()
        ballot = torch.zeros(len(weights), num_classes, device=keys.device)
        votes.append(ballot.scatter_add_(1, train_labels[nearest.indices], weights))
    counted = torch.cat(votes)
    return counted / counted.sum(1, keepdim=True)


def check_features(feats: Tensor, labels: Tensor) -> None:
    """Refuse features (N, D) and labels (N,) that do not fit, or are not finite.

    Raises:
        ValueError: if so.
    """
    if feats.ndim != 2 or labels.ndim != 1 or len(feats) != len(labels) or not len(feats):
        raise ValueError(f'features (N, D) and labels (N,) must fit, got {tuple(feats.shape)} and '
                         f'{tuple(labels.shape)}')
    if not feats.isfinite().all():
        raise ValueError('features hold NaN or infinite values')
