"""Atrous spatial pyramid pooling: one map seen through several fields of view.

Chen et al., Rethinking Atrous Convolution, https://arxiv.org/abs/1706.05587, section 3.3

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlab.layers.conv import ConvNormAct


class SeparableConv(nn.Sequential):
    """A 3x3 convolution of each channel on its own, then a 1x1 one across channels.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        dilation: step between two taps of the 3x3 kernel.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, 3, dilation=dilation,
                                     groups=in_channels, norm=norm, act=act)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, norm=norm, act=act)


def make_conv3(in_channels: int, out_channels: int, dilation: int = 1, separable: bool = False,
               norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None) -> nn.Module:
    """A 3x3 convolution with norm and activation, plain or separable."""
    if separable:
        return SeparableConv(in_channels, out_channels, dilation, norm, act)
    return ConvNormAct(in_channels, out_channels, 3, dilation=dilation, norm=norm, act=act)


class ASPP(nn.Module):
    """A 1x1 convolution, dilated 3x3 ones and the mean of the map, joined by a 1x1 convolution.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of each branch, and of the output.
        dilations: of the 3x3 branches.
        dropout: probability to drop an output in training.
        separable: make the 3x3 convolutions separable.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        dilations: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        separable: bool = False,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.branches = nn.ModuleList([ConvNormAct(in_channels, out_channels, 1, **style)])
        for dilation in dilations:
            self.branches.append(make_conv3(in_channels, out_channels, dilation, separable,
                                            **style))
        self.image = ConvNormAct(in_channels, out_channels, 1, **style)
        self.project = ConvNormAct((len(dilations) + 2) * out_channels, out_channels, 1, **style)
        self.dropout = nn.Dropout(dropout)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H, W)."""
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        views = [branch(x) for branch in self.branches]
        return self.dropout(self.project(torch.cat([*views, image], dim=1)))
