"""A pyramid out of one map, for networks that keep one resolution from end to end.

Paper: Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet),
https://arxiv.org/abs/2203.16527.

Each level is made from the last map alone: finer ones by transposed convolutions that double it,
coarser ones by taking maxima; then a 1x1 and a 3x3 convolution bring all levels to one width.

B batch · L levels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.layers.act import make_act
from openlab.layers.norm import LayerNorm2d
from openlab.registry import MODELS


@MODELS.register_module()
class SimplePyramid(nn.Module):
    """Levels of several strides from the last map of a backbone.

    Args:
        in_channels: channels of the backbone's maps, of which the last is taken.
        out_channels: channels of every level.
        in_stride: input pixels per step of that map, a power of two.
        strides: of the levels, powers of two that do not fall.

    Attributes:
        out_channels: one number for each level.
        strides: those of the levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        in_stride: int = 16,
        strides: Sequence[int] = (4, 8, 16, 32),
    ):
        super().__init__()
        if any(s < 1 or s & (s - 1) for s in (in_stride, *strides)):
            raise ValueError(f'SimplePyramid doubles and halves maps: in_stride={in_stride} and '
                             f'strides={tuple(strides)} must be powers of two')
        if not strides or list(strides) != sorted(strides):
            raise ValueError(f'strides must not fall, finest first, not {tuple(strides)}')
        self.strides = tuple(strides)
        self.out_channels: tuple[int, ...] = (out_channels,) * len(self.strides)
        self.levels = nn.ModuleList(
            _make_level(in_channels[-1], out_channels, in_stride, stride) for stride in strides)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone to L levels, finest first, each (B, out_channels, H, W)."""
        return tuple(level(feats[-1]) for level in self.levels)


def _make_level(in_channels: int, out_channels: int, in_stride: int, stride: int) -> nn.Sequential:
    """Change the stride, then the width.

    As in the paper's code, each doubling halves the channels, and a norm and GELU stand between
    two of them.
    """
    level, channels = nn.Sequential(), in_channels
    doublings = round(math.log2(in_stride / stride))
    for i in range(doublings):
        half = max(channels // 2, 1)
        level.add_module(f'up{i}', nn.ConvTranspose2d(channels, half, 2, 2))
        if i < doublings - 1:
            level.add_module(f'norm{i}', LayerNorm2d(half, eps=1e-6))
            level.add_module(f'act{i}', make_act({'type': nn.GELU}))
        channels = half
    if doublings < 0:
        level.add_module('down', nn.MaxPool2d(2**-doublings))
    convs: tuple[tuple[str, dict[str, Any]], ...] = (
        ('lateral', {'kernel_size': 1}), ('smooth', {'kernel_size': 3, 'padding': 1}))
    for name, shape in convs:
        level.add_module(name, nn.Conv2d(channels, out_channels, bias=False, **shape))
        level.add_module(f'{name}_norm', LayerNorm2d(out_channels, eps=1e-6))
        channels = out_channels
    return level
