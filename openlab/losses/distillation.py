"""What a student's logits should learn from a teacher's.

B batch · K classes
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
class SoftTargetLoss(nn.Module):
    """Divergence of the student's probabilities from the teacher's, both softened alike.

    Paper: Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531. The
    square of the temperature keeps gradients of one size whatever the temperature (section 2).

    Args:
        temperature: logits are divided by it.
        per_class: divide by the number of classes as well, as the released code of DeiT does.
        loss_weight: factor of the result.
    """

    def __init__(self, temperature: float = 4.0, per_class: bool = False,
                 loss_weight: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature
        self.per_class = per_class
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over items, (), of logits (B, K) of both."""
        log_probs = (student.float() / self.temperature).log_softmax(1)
        targets = (teacher.float() / self.temperature).log_softmax(1)
        loss = F.kl_div(log_probs, targets, reduction='batchmean', log_target=True)
        divisor = student.shape[1] if self.per_class else 1
        return loss * self.temperature**2 * self.loss_weight / divisor


@MODELS.register_module()
class HardTargetLoss(nn.Module):
    """Cross entropy with the class that the teacher finds likeliest.

    Paper: DeiT, https://arxiv.org/abs/2012.12877 (eq. 3).

    Args:
        label_smoothing: share of the target spread evenly over all classes.
        loss_weight: factor of the result.
    """

    def __init__(self, label_smoothing: float = 0.0, loss_weight: float = 1.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over items, (), of logits (B, K) of both."""
        return self.loss_weight * F.cross_entropy(
            student.float(), teacher.argmax(1), label_smoothing=self.label_smoothing)
