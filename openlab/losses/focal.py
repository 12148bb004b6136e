"""Focal loss: cross entropy that cares less about what is already right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
class FocalLoss(nn.Module):
    """Sum of the sigmoid focal loss over all entries.

    Paper: Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002 (eq. 5).

    Args:
        alpha: weight of positives; negatives have ``1 - alpha``. Negative: no weights.
        gamma: how strongly easy entries are discounted.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Weighted sum of the loss of ``logits`` against 0/1 (or bool) ``targets``.

        Written for few passes, because a detector has very many entries: with the logit turned
        so that being right is negative, both kinds of entries have one formula, p^gamma times
        softplus, where p is the probability of being wrong.

        Args:
            logits: (..., K).
            targets: (..., K).
            weight: of all entries of a row, (...,); by default 1.
        """
        is_pos = targets.bool()
        wrong = torch.where(is_pos, -logits, logits)
        loss = wrong.sigmoid() ** self.gamma * F.softplus(wrong)
        if self.alpha >= 0:
            loss = loss * torch.where(is_pos, self.alpha, 1 - self.alpha).to(loss.dtype)
        return loss.sum() if weight is None else (loss.sum(-1) * weight).sum()
