"""Convolution, normalisation, activation: the brick of convolutional networks."""

from __future__ import annotations

from typing import Any

from torch import nn

from openlab.layers.act import make_act
from openlab.layers.norm import make_norm


class ConvNormAct(nn.Sequential):
    """A convolution with its normalisation and activation, as ``conv``, ``norm`` and ``act``.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        kernel: side of the kernel.
        stride: step between two outputs.
        padding: zeros around the map; by default what keeps its size at stride 1.
        dilation: step between two taps of the kernel.
        groups: groups of channels that do not see each other.
        norm: see ``make_norm``; ``None`` is batch normalisation.
        act: see ``make_act``; ``None`` is ReLU.
        with_norm: ``False`` leaves the normalisation out; the convolution then has a bias.
        with_act: ``False`` leaves the activation out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        with_norm: bool = True,
        with_act: bool = True,
    ):
        super().__init__()
        if padding is None:
            padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation,
                              groups, bias=not with_norm)
        if with_norm:
            self.norm = make_norm(out_channels, norm)
        if with_act:
            self.act = make_act(act)
        self.in_channels = in_channels
        self.out_channels = out_channels
