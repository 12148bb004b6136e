"""Res2Net: a bottleneck whose 3x3 convolution is a cascade over slices of its channels.

Gao et al., https://arxiv.org/abs/1904.01169

Each slice is filtered after the result of the slice before has been added, so that one block sees
several scales. Stages are counted as in ``ResNet``, from 2 (stride 4) to 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openlab.backbones.resnet import make_shortcut, make_stem
from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net, zero_scale
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Res2NetBlock(nn.Module):
    """1x1 convolution, cascade of 3x3 convolutions, 1x1 convolution, with a residual.

    Args:
        in_channels: channels of the input map.
        width: a quarter of the channels that come out.
        slice_width: channels of a slice.
        num_slices: number of slices.
        is_first: first block of a stage: slices are not added, and the last one is averaged.
        stride: step of the 3x3 convolutions.
        avg_down: average in the shortcut before its convolution instead of striding.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, slice_width: int, num_slices: int,
                 is_first: bool, stride: int = 1, avg_down: bool = False, drop_path: float = 0.0,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        out = width * self.expansion
        self.slice_width, self.is_first = slice_width, is_first
        self.conv1 = ConvNormAct(in_channels, slice_width * num_slices, 1, **style)
        self.convs = nn.ModuleList(
            ConvNormAct(slice_width, slice_width, 3, stride, **style)
            for _ in range(num_slices - 1))
        self.pool = nn.AvgPool2d(3, stride, 1) if is_first else nn.Identity()
        self.conv3 = ConvNormAct(slice_width * num_slices, out, 1, with_act=False, **style)
        self.shortcut = make_shortcut(in_channels, out, stride, avg_down, norm)
        self.drop_path = DropPath(drop_path)
        self.act = make_act(act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        *slices, last = self.conv1(x).split(self.slice_width, dim=1)
        outs: list[Tensor] = []
        for y, conv in zip(slices, self.convs):
            outs.append(conv(y + outs[-1] if outs and not self.is_first else y))
        branch = self.conv3(torch.cat([*outs, self.pool(last)], dim=1))
        return self.act(self.drop_path(branch).add_(self.shortcut(x)))


_BLOCK_KEYS = (
    *((rf'^layer{i + 1}\.', f'stages.{i}.') for i in range(4)),
    (r'\.conv([13])\.', r'.conv\1.conv.'),
    (r'\.bn([13])\.', r'.conv\1.norm.'),
    (r'\.convs\.(\d)\.', r'.convs.\1.conv.'),
    (r'\.bns\.(\d)\.', r'.convs.\1.norm.'),
    (r'^fc\.', '../head.fc.'),
)
_KEYS = (
    *_BLOCK_KEYS,
    (r'\.downsample\.0\.', '.shortcut.conv.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
    (r'^conv1\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
)
_DEEP_KEYS = (
    *_BLOCK_KEYS,
    (r'\.downsample\.1\.', '.shortcut.conv.'),
    (r'\.downsample\.2\.', '.shortcut.norm.'),
    *((rf'^conv1\.{3 * i}\.', f'stem.{i}.conv.') for i in range(3)),
    *((rf'^conv1\.{3 * i + 1}\.', f'stem.{i}.norm.') for i in range(2)),
    (r'^bn1\.', 'stem.2.norm.'),
)
_SIGNATURE = (r'^conv1\.weight', r'^layer1\.0\.convs\.0\.')


@MODELS.register_module()
class Res2Net(nn.Module):
    """Res2Net of 50 to 152 layers.

    Args:
        depth: 50, 101 or 152: sets ``num_blocks`` where it is left out.
        num_blocks: blocks of each stage.
        slice_width: channels of a slice in the first stage (the paper's w).
        num_slices: number of slices (the paper's s).
        in_channels: channels of the input.
        base_channels: a quarter of the channels of the first stage.
        stem: ``'conv7'`` or ``'deep'``, see ``ResNet``.
        avg_down: average in shortcuts before their convolution (Res2Net v1d).
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        zero_init_last: start each residual branch at zero.
        norm: see ``make_norm``.
        act: see ``make_act``.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _KEYS, signature=_SIGNATURE),
        KeyMap('timm', _DEEP_KEYS, signature=(r'^conv1\.6\.', r'^layer1\.0\.convs\.0\.')),
        KeyMap('openmmlab', _KEYS, signature=_SIGNATURE),
    )

    def __init__(
        self,
        depth: Literal[50, 101, 152] = 50,
        num_blocks: Sequence[int] | None = None,
        slice_width: int = 26,
        num_slices: int = 4,
        in_channels: int = 3,
        base_channels: int = 64,
        stem: Literal['conv7', 'deep'] = 'conv7',
        avg_down: bool = False,
        drop_path: float = 0.0,
        zero_init_last: bool = True,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if depth not in _DEPTHS:
            raise ValueError(f'Res2Net has depths {list(_DEPTHS)}, not {depth}; for another one '
                             'give num_blocks')
        if num_slices < 2:
            raise ValueError(f'Res2Net needs num_slices of at least 2, not {num_slices}')
        num_blocks = tuple(num_blocks or _DEPTHS[depth])
        self.out_stages = check_out_stages(out_stages, first=2, last=len(num_blocks) + 1)
        num_blocks = num_blocks[: self.out_stages[-1] - 1]
        self.stem = make_stem(stem, in_channels, base_channels, norm, act)
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        channels = base_channels
        for i, num in enumerate(num_blocks):
            blocks = nn.Sequential()
            for j in range(num):
                blocks.append(Res2NetBlock(
                    channels, base_channels * 2**i, slice_width * 2**i, num_slices, j == 0,
                    2 if i and j == 0 else 1, avg_down, next(probs), norm, act))
                channels = base_channels * 2**i * Res2NetBlock.expansion
            self.stages.append(blocks)
        self.out_channels = tuple(base_channels * 2**s for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)
        if zero_init_last:
            for part in self.modules():
                if isinstance(part, Res2NetBlock):
                    zero_scale(part.conv3.norm)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
