"""Classification losses over classes that exclude one another, and over ones that do not.

B batch · K classes · ... any further dimensions, such as the pixels of a map
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(ClassificationLoss):
    """Cross entropy with class indices or with probabilities (mixup, cutmix, distillation).

    Args:
        label_smoothing: share of the target spread evenly over all classes.
        class_weight: factor of each class, (K,); the mean is then a weighted one.
        ignore_index: class index of items that count for nothing.
        loss_weight: factor of the result.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | None = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing must lie in [0, 1), not {label_smoothing}')
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer('class_weight', weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss over all items that are not ignored; 0 where all of them are.

        Args:
            logits: raw scores, (B, K, ...).
            target: class indices (B, ...), or probabilities with the shape of ``logits``.
        """
        check_classes(logits, target, self.class_weight)
        total = F.cross_entropy(
            logits.float(), target if target.shape != logits.shape else target.float(),
            weight=self.class_weight, ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing, reduction='sum')
        return total / self._divisor(logits, target) * self.loss_weight

    def num_items(self, logits: Tensor, target: Tensor) -> Tensor:
        """What the mean divides by, (): the (weighted) number of items that are not ignored."""
        if target.shape == logits.shape:
            return torch.full((), float(target.numel() // target.shape[1]), device=logits.device)
        valid = target != self.ignore_index
        if self.class_weight is None:
            return valid.sum().float()
        return (self.class_weight[target.where(valid, 0)] * valid).sum()

    def _divisor(self, logits: Tensor, target: Tensor) -> Tensor:
        num = self.num_items(logits, target)
        return num.where(num > 0, torch.ones_like(num))

    def probs(self, logits: Tensor) -> Tensor:
        """Class probabilities, (B, K, ...)."""
        return logits.float().softmax(1)


@MODELS.register_module()
class BinaryCrossEntropyLoss(ClassificationLoss):
    """Cross entropy of each class on its own, for items with any number of classes.

    Args:
        label_smoothing: moves targets of 0 and 1 by half of this towards 0.5.
        pos_weight: factor of the positive part of each class, (K,).
        reduction: ``'mean'`` over items and classes, or ``'sum'`` over the classes of an item.
        loss_weight: factor of the result.
        target_threshold: targets above this become 1 and others 0, before smoothing: with mixup
            and cutmix an image shows both classes (https://arxiv.org/abs/2110.00476).
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        pos_weight: Sequence[float] | None = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        target_threshold: float | None = None,
    ):
        super().__init__()
        if reduction not in ('mean', 'sum'):
            raise ValueError(f"reduction over classes is 'mean' or 'sum', not {reduction!r}")
        if target_threshold is not None and not 0 <= target_threshold < 1:
            raise ValueError(f'target_threshold must lie in [0, 1), not {target_threshold}')
        self.target_threshold = target_threshold
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.loss_weight = loss_weight
        weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float32)
        self.register_buffer('pos_weight', weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss averaged over items.

        Args:
            logits: raw scores, (B, K).
            target: 0, 1 or anything between for each class, -1 where it is not known, (B, K); or
                class indices, (B,).
        """
        check_classes(logits, target, self.pos_weight)
        if target.shape != logits.shape:
            target = F.one_hot(target, logits.shape[1])
        known = target >= 0
        target = target.float().clamp(min=0)
        if self.target_threshold is not None:
            target = (target > self.target_threshold).float()
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        loss_BK = F.binary_cross_entropy_with_logits(
            logits.float(), target, pos_weight=self.pos_weight, reduction='none') * known
        loss_B = loss_BK.mean(1) if self.reduction == 'mean' else loss_BK.sum(1)
        return loss_B.mean() * self.loss_weight

    def num_items(self, logits: Tensor, target: Tensor) -> Tensor:
        """Number of items the mean is taken over, ()."""
        return num_rows(logits)

    def probs(self, logits: Tensor) -> Tensor:
        """Probability of each class, (B, K); they need not sum to 1."""
        return logits.float().sigmoid()


def num_rows(logits: Tensor) -> Tensor:
    """Number of items of a batch, as a tensor, ()."""
    return torch.full((), float(len(logits)), device=logits.device)


def check_classes(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
    """Refuse shapes that would broadcast into a wrong loss.

    Raises:
        ValueError: naming both shapes.
    """
    indices = (logits.shape[0], *logits.shape[2:])
    if target.shape not in (logits.shape, indices):
        raise ValueError(
            f'logits have shape {tuple(logits.shape)}; the target must hold class indices '
            f'{indices} or probabilities {tuple(logits.shape)}, not {tuple(target.shape)}')
    if weight is not None and len(weight) != logits.shape[1]:
        raise ValueError(f'{len(weight)} class weights for {logits.shape[1]} classes')
