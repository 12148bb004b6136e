"""Dice loss: overlap of regions, in which small classes weigh as much as large ones.

B batch · K classes · ... any further dimensions, such as the pixels of a map
"""

from __future__ import annotations

import torch
from torch import Tensor

from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import check_classes
from openlab.registry import MODELS


@MODELS.register_module()
class DiceLoss(ClassificationLoss):
    """One minus the soft Dice coefficient of each class, averaged over classes.

    Paper: V-Net, https://arxiv.org/abs/1606.04797; here with sums of probabilities instead of
    squares in the denominator. Regions are taken over the whole batch.

    Args:
        ignore_index: class index of pixels that count for nothing.
        smooth: added to numerator and denominator.
        present_only: average over the classes that the truth of the batch holds; else over all.
        loss_weight: factor of the result.
    """

    def __init__(self, ignore_index: int = 255, smooth: float = 1.0, present_only: bool = True,
                 loss_weight: float = 1.0):
        super().__init__()
        if smooth <= 0:
            raise ValueError(f'smooth must be positive, not {smooth}')
        self.ignore_index = ignore_index
        self.smooth = smooth
        self.present_only = present_only
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits (B, K, ...) against class indices (B, ...); 0 where all are ignored."""
        check_classes(logits, target)
        if target.shape == logits.shape:
            raise ValueError('DiceLoss compares with class indices (B, ...), not probabilities')
        K = logits.shape[1]
        valid = target != self.ignore_index
        index = target.where(valid, 0)
        probs = self.probs(logits) * valid.unsqueeze(1)
        right = probs.gather(1, index.unsqueeze(1)).flatten()
        overlap_K = probs.new_zeros(K).index_add(0, index.flatten(), right)
        true_K = probs.new_zeros(K).index_add(0, index.flatten(), valid.flatten().to(probs.dtype))
        guessed_K = probs.transpose(0, 1).flatten(1).sum(1)
        dice_K = (2 * overlap_K + self.smooth) / (true_K + guessed_K + self.smooth)
        counted_K = true_K > 0 if self.present_only else valid.any().expand(K)
        return ((1 - dice_K) * counted_K).sum() / counted_K.sum().clamp(min=1) * self.loss_weight

    def num_items(self, logits: Tensor, target: Tensor) -> Tensor:
        """Number of pixels that are not ignored, ()."""
        return (target != self.ignore_index).sum().float()

    def probs(self, logits: Tensor) -> Tensor:
        """Class probabilities, (B, K, ...)."""
        return torch.softmax(logits.float(), dim=1)
