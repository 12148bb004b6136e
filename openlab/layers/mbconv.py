"""The blocks of mobile networks: wide inside, narrow between blocks.

* MBConv: Sandler et al., https://arxiv.org/abs/1801.04381; with squeeze and excitation,
  Tan et al., https://arxiv.org/abs/1807.11626
* FusedMBConv: Tan and Le, EfficientNetV2, https://arxiv.org/abs/2104.00298, figure 2

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath
from openlab.layers.se import SqueezeExcite


class MBConv(nn.Module):
    """Expand by 1x1, filter each channel, gate the channels, project by 1x1 without activation.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        hidden: channels inside; where they are those of the input nothing is expanded.
        kernel: side of the filter.
        stride: step of the filter.
        se_hidden: channels of the bottleneck of squeeze and excitation; 0 leaves it out.
        se_act: activation in that bottleneck; by default ``act``.
        se_gate: what makes the gate, by default the sigmoid.
        padding: of the filter, see ``ConvNormAct``.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, kernel: int = 3,
                 stride: int = 1, se_hidden: int = 0, se_act: dict[str, Any] | None = None,
                 se_gate: dict[str, Any] | None = None, padding: Literal['same'] | None = None,
                 drop_path: float = 0.0, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        self.expand: nn.Module = nn.Identity()
        if hidden != in_channels:
            self.expand = ConvNormAct(in_channels, hidden, 1, norm=norm, act=act)
        self.depthwise = ConvNormAct(hidden, hidden, kernel, stride, padding, groups=hidden,
                                     norm=norm, act=act)
        self.se: nn.Module = nn.Identity()
        if se_hidden:
            self.se = SqueezeExcite(hidden, se_hidden, se_act or act, se_gate)
        self.project = ConvNormAct(hidden, out_channels, 1, norm=norm, with_act=False)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return self.drop_path(y).add_(x) if self.is_residual else y


class FusedMBConv(nn.Module):
    """Expansion and filter in one convolution, then a projection by 1x1.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        hidden: channels inside; where they are those of the input, one convolution does all.
        kernel: side of the convolution.
        stride: step of the convolution.
        padding: of the convolution, see ``ConvNormAct``.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, kernel: int = 3,
                 stride: int = 1, padding: Literal['same'] | None = None,
                 drop_path: float = 0.0, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        is_single = hidden == in_channels
        self.expand = ConvNormAct(in_channels, out_channels if is_single else hidden, kernel,
                                  stride, padding, norm=norm, act=act)
        self.project: nn.Module = nn.Identity()
        if not is_single:
            self.project = ConvNormAct(hidden, out_channels, 1, norm=norm, with_act=False)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.project(self.expand(x))
        return self.drop_path(y).add_(x) if self.is_residual else y
