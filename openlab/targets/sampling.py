"""Which of very many anchors or proposals a step learns from.

A anchors or proposals of one image
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openlab.registry import MODELS
from openlab.targets.matching import BACKGROUND


@MODELS.register_module()
class BalancedSampler(nn.Module):
    """Draw at random, so that the empty ones do not outnumber the others without bound.

    Paper: Faster R-CNN, https://arxiv.org/abs/1506.01497 (section 3.1.3).

    Args:
        num: how many of an image are drawn, if there are so many.
        positive_fraction: at most this share of them has an object; the rest is empty.
    """

    def __init__(self, num: int = 256, positive_fraction: float = 0.5):
        super().__init__()
        if num < 1 or not 0 < positive_fraction <= 1:
            raise ValueError(f'need num >= 1 and positive_fraction above 0 and at most 1, got '
                             f'{num} and {positive_fraction}')
        self.num, self.positive_fraction = num, positive_fraction

    def forward(self, matched: Tensor) -> Tensor:
        """Rising indices of the drawn ones, from what an assigner says about all, (A,)."""
        positive = (matched >= 0).nonzero()[:, 0]
        negative = (matched == BACKGROUND).nonzero()[:, 0]
        num_positive = min(int(self.num * self.positive_fraction), len(positive))
        num_negative = min(self.num - num_positive, len(negative))
        drawn = [
            group[torch.randperm(len(group), device=group.device)[:count]]
            for group, count in ((positive, num_positive), (negative, num_negative))
        ]
        return torch.cat(drawn).sort().values
