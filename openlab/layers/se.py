"""Squeeze and excitation: weigh the channels of a map by what the whole map holds.

Hu et al., Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from openlab.layers.act import make_act


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in [0, 1] that a small bottleneck computes from all means.

    Args:
        channels: channels of the map.
        hidden: channels of the bottleneck.
        act: activation inside the bottleneck, see ``make_act``; by default ReLU.
        gate: what makes the gate; by default the sigmoid.
    """

    def __init__(self, channels: int, hidden: int, act: dict[str, Any] | None = None,
                 gate: dict[str, Any] | None = None):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = make_act(act)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = make_act(gate or {'type': nn.Sigmoid})

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of ``x``, (B, C, H, W)."""
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * self.gate(gate)
