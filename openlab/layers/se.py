"""Squeeze and excitation: weigh the channels of a map by what the whole map holds.

Hu et al., Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
"""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in [0, 1] that a small bottleneck computes from all means.

    Args:
        channels: channels of the map.
        hidden: channels of the bottleneck.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of ``x``, (B, C, H, W)."""
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()
