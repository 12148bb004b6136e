"""Losses of items with any number of labels, where most classes are absent from most items.

B batch · K classes
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import check_classes, num_rows
from openlab.registry import MODELS


class _MultiLabelLoss(ClassificationLoss):
    """What losses over independent classes share: one-hot targets, unknown entries, the mean."""

    loss_weight: float
    reduction: str

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each entry (B, K), of targets from 0 to 1."""
        raise NotImplementedError

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss averaged over items.

        Args:
            logits: raw scores, (B, K).
            target: from 0 to 1 for each class, -1 where it is not known, (B, K); or class
                indices, (B,).
        """
        check_classes(logits, target)
        if target.shape != logits.shape:
            target = F.one_hot(target, logits.shape[1])
        known = target >= 0
        loss_BK = self.entries(logits.float(), target.float().clamp(min=0)) * known
        loss_B = loss_BK.mean(1) if self.reduction == 'mean' else loss_BK.sum(1)
        return loss_B.mean() * self.loss_weight

    def num_items(self, logits: Tensor, target: Tensor) -> Tensor:
        """Number of items the mean is taken over, ()."""
        return num_rows(logits)

    def probs(self, logits: Tensor) -> Tensor:
        """Probability of each class, (B, K); they need not sum to 1."""
        return logits.float().sigmoid()


@MODELS.register_module()
class AsymmetricLoss(_MultiLabelLoss):
    """Focal loss that discounts absent classes more than present ones, and drops the easiest.

    Paper: Asymmetric Loss For Multi-Label Classification, https://arxiv.org/abs/2009.14119
    (eq. 7). The probability of an absent class is lowered by ``clip`` first (eq. 5), so that
    one below it costs nothing.

    Args:
        gamma_pos: how strongly easy present classes are discounted.
        gamma_neg: the same for absent classes.
        clip: probability below which an absent class costs nothing.
        with_weight_gradient: let gradients through the discount as well; the authors train
            without.
        reduction: ``'sum'`` over the classes of an item, as the authors do, or ``'mean'``.
        loss_weight: factor of the result.
    """

    def __init__(self, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05,
                 with_weight_gradient: bool = False, reduction: str = 'sum',
                 loss_weight: float = 1.0):
        super().__init__()
        _check(reduction, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip
        self.with_weight_gradient = with_weight_gradient
        self.reduction = reduction
        self.loss_weight = loss_weight

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each entry, (B, K)."""
        present = logits.sigmoid()
        absent = (1 - present + self.clip).clamp(max=1)
        cost = -(target * F.logsigmoid(logits) + (1 - target) * absent.clamp(min=1e-8).log())
        right = target * present + (1 - target) * absent
        gamma = target * self.gamma_pos + (1 - target) * self.gamma_neg
        # The base must not be 0 where it gets a gradient: that of a power below 1 is infinite.
        wrong = 1 - right
        discount = wrong.clamp(min=1e-8 if self.with_weight_gradient else 0) ** gamma
        return cost * (discount if self.with_weight_gradient else discount.detach())


@MODELS.register_module()
class MultiLabelFocalLoss(_MultiLabelLoss):
    """Binary cross entropy that cares less about what is already right.

    Paper: Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002 (eq. 5).

    Args:
        alpha: weight of present classes; absent ones have ``1 - alpha``. ``None``: no weights.
        gamma: how strongly easy entries are discounted.
        reduction: ``'sum'`` over the classes of an item, or ``'mean'``.
        loss_weight: factor of the result.
    """

    def __init__(self, alpha: float | None = 0.25, gamma: float = 2.0, reduction: str = 'sum',
                 loss_weight: float = 1.0):
        super().__init__()
        _check(reduction, gamma=gamma, alpha=0 if alpha is None else alpha)
        self.alpha, self.gamma = alpha, gamma
        self.reduction = reduction
        self.loss_weight = loss_weight

    def entries(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each entry, (B, K)."""
        present = logits.sigmoid()
        wrong = target * (1 - present) + (1 - target) * present
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
        if self.alpha is not None:
            cost = cost * (target * self.alpha + (1 - target) * (1 - self.alpha))
        return cost * wrong ** self.gamma


def _check(reduction: str, **at_least_zero: float) -> None:
    if reduction not in ('mean', 'sum'):
        raise ValueError(f"reduction over classes is 'mean' or 'sum', not {reduction!r}")
    for name, value in at_least_zero.items():
        if value < 0:
            raise ValueError(f'{name} must not be negative, got {value}')
