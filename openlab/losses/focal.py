"""Focal loss: cross entropy that cares less about what is already right."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

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

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of ``logits`` against 0/1 ``targets`` of the same shape; a scalar sum."""
        return sigmoid_focal_loss(logits, targets, self.alpha, self.gamma, reduction='sum')
