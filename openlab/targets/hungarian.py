"""One prediction for each object, at the lowest total cost.

Q queries · N objects of one image · K classes · D layers of a decoder · B batch
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Match = tuple[Tensor, Tensor]


def hungarian(costs: Tensor) -> list[Match]:
    """Pair queries with objects so that the costs of the pairs add up to the least.

    A cost that is no number, or infinite, is taken last: a diverging model then shows a high loss
    instead of an error from the solver.

    Args:
        costs: one matrix for each of D independent problems, (D, Q, N); N may be 0.

    Returns:
        For each problem the indices of queries (rising) and of their objects, each
        (min(Q, N),), on the device of ``costs``.
    """
    worst = torch.finfo(costs.dtype).max
    table = torch.nan_to_num(costs.detach(), nan=worst, posinf=worst, neginf=worst).cpu().numpy()
    matches = []
    for cost in table:
        queries, objects = linear_sum_assignment(cost)
        matches.append(
            (torch.as_tensor(queries, device=costs.device),
             torch.as_tensor(objects, device=costs.device)))  # fmt: skip
    return matches


def flatten_matches(matches: Sequence[Match]) -> tuple[Tensor, Tensor]:
    """Batch index and query index of every pair of a batch, to pick what was matched."""
    image = torch.cat([torch.full_like(queries, b) for b, (queries, _) in enumerate(matches)])
    return image, torch.cat([queries for queries, _ in matches])


def set_cross_entropy(
    logits: Tensor, labels: Sequence[Tensor], matches: Sequence[Match], no_object_weight: float
) -> Tensor:
    """Cross entropy of all queries: matched ones have a class, the others the last, "no object".

    Args:
        logits: (B, Q, K + 1).
        labels: of the objects of each image, B tensors (N,).
        matches: the pairs of each image.
        no_object_weight: weight of "no object" in the weighted mean; it is by far the most
            frequent answer.

    Returns:
        The weighted mean, ().
    """
    num_classes = logits.shape[-1] - 1
    target = torch.full(logits.shape[:2], num_classes, device=logits.device)
    target[flatten_matches(matches)] = torch.cat(
        [of_image[objects] for of_image, (_, objects) in zip(labels, matches, strict=True)])
    weight = logits.new_ones(num_classes + 1)
    weight[-1] = no_object_weight
    return F.cross_entropy(logits.transpose(1, 2), target, weight)
