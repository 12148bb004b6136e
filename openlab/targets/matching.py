"""Which object each anchor or proposal is to find.

A anchors · N objects of one image
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openlab.registry import MODELS

BACKGROUND, IGNORED = -1, -2


@MODELS.register_module()
class IoUAssigner(nn.Module):
    """Match by overlap.

    Paper: Faster R-CNN, https://arxiv.org/abs/1506.01497 (section 3.1.2).

    Args:
        foreground: from this IoU on, an anchor has to find its best object.
        background: below this IoU it has to say that there is nothing; between, it is ignored.
        keep_best: let each object keep the anchors that overlap it most, however little.
    """

    def __init__(
        self, foreground: float = 0.5, background: float | None = None, keep_best: bool = False
    ):
        super().__init__()
        background = foreground if background is None else background
        if not 0 <= background <= foreground <= 1:
            raise ValueError(
                f'IoUs must be 0 <= background <= foreground <= 1, got {background}, {foreground}'
            )
        self.foreground, self.background, self.keep_best = foreground, background, keep_best

    def forward(self, ious: Tensor) -> Tensor:
        """Index of the object of each anchor, (A,), from IoUs (N, A); or one of the constants."""
        if ious.shape[0] == 0:
            return torch.full((ious.shape[1],), BACKGROUND, device=ious.device)
        best, index = ious.max(dim=0)
        matched = index.clone()
        matched[best < self.foreground] = IGNORED
        matched[best < self.background] = BACKGROUND
        if self.keep_best:
            most = ious.max(dim=1, keepdim=True).values
            kept = (ious == most).any(dim=0)
            matched[kept] = index[kept]
        return matched
