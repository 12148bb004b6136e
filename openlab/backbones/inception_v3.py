"""Inception v3: blocks of parallel branches whose large convolutions are taken apart.

Szegedy et al., Rethinking the Inception Architecture, https://arxiv.org/abs/1512.00567

The rows of the paper's table 1 are ``_STAGES``; the blocks are those of its figures 5 to 7 and 10.
Stages are counted by their stride, from 1 (stride 2) to 5 (stride 32). Like the original, most
convolutions that stride, and some of the first, do not pad, so that a map is up to three places
smaller than the image over its stride; ``with_padding`` changes that. The auxiliary classifier,
which the published training uses, is not part of it, and left out of weights.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.init import init_conv_net
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


class _Conv(NamedTuple):
    """A convolution; one that is not ``padded`` only gives what its kernel fully covers."""

    channels: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padded: bool = True


class _Pool(NamedTuple):
    """A pooling over 3x3 places: of means that keeps the map's size, or of maxima that halves."""

    is_max: bool


_Step = _Conv | _Pool | tuple[_Conv, ...]  # a tuple: convolutions side by side
_Branches = tuple[tuple[_Step, ...], ...]
_MEAN, _HALVE = _Pool(False), _Pool(True)


def _fine(pool_channels: int) -> _Branches:
    """Figure 5: the 5x5 convolution as two of 3x3."""
    return ((_Conv(64, 1),),
            (_Conv(48, 1), _Conv(64, 5)),
            (_Conv(64, 1), _Conv(96, 3), _Conv(96, 3)),
            (_MEAN, _Conv(pool_channels, 1)))


def _middle(inner: int) -> _Branches:
    """Figure 6: the 7x7 convolution as 1x7 and 7x1."""
    return ((_Conv(192, 1),),
            (_Conv(inner, 1), _Conv(inner, (1, 7)), _Conv(192, (7, 1))),
            (_Conv(inner, 1), _Conv(inner, (7, 1)), _Conv(inner, (1, 7)), _Conv(inner, (7, 1)),
             _Conv(192, (1, 7))),
            (_MEAN, _Conv(192, 1)))


_FORK = (_Conv(384, (1, 3)), _Conv(384, (3, 1)))
_COARSE: _Branches = (  # figure 7
    (_Conv(320, 1),),
    (_Conv(384, 1), _FORK),
    (_Conv(448, 1), _Conv(384, 3), _FORK),
    (_MEAN, _Conv(192, 1)))
_TO_MIDDLE: _Branches = (  # figure 10
    (_Conv(384, 3, 2, False),),
    (_Conv(64, 1), _Conv(96, 3), _Conv(96, 3, 2, False)),
    (_HALVE,))
_TO_COARSE: _Branches = (
    (_Conv(192, 1), _Conv(320, 3, 2, False)),
    (_Conv(192, 1), _Conv(192, (1, 7)), _Conv(192, (7, 1)), _Conv(192, 3, 2, False)),
    (_HALVE,))
_STAGES: tuple[tuple[_Conv | _Pool | _Branches, ...], ...] = (
    (_Conv(32, 3, 2, False), _Conv(32, 3, 1, False), _Conv(64, 3)),
    (_HALVE, _Conv(80, 1), _Conv(192, 3, 1, False)),
    (_HALVE, _fine(32), _fine(64), _fine(64)),
    (_TO_MIDDLE, _middle(128), _middle(160), _middle(160), _middle(192)),
    (_TO_COARSE, _COARSE, _COARSE),
)


class Parallel(nn.Module):
    """Branches that see the same map; what they give is joined along the channels.

    Args:
        branches: modules that give maps of one size.
    """

    def __init__(self, branches: Sequence[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one with the channels of all branches."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _key_renames() -> list[tuple[str, str]]:
    names = {  # published names of our stages' parts
        'Conv2d_1a_3x3': '0.0', 'Conv2d_2a_3x3': '0.1', 'Conv2d_2b_3x3': '0.2',
        'Conv2d_3b_1x1': '1.1', 'Conv2d_4a_3x3': '1.2',
        **{f'Mixed_5{letter}': f'2.{i}' for i, letter in enumerate('bcd', start=1)},
        **{f'Mixed_6{letter}': f'3.{i}' for i, letter in enumerate('abcde')},
        **{f'Mixed_7{letter}': f'4.{i}' for i, letter in enumerate('abc')}}
    paths = {  # published names of branches: where they stand in each kind of block
        r'2\.[123]': ('1x1', '5x5_', '3x3dbl_', 'pool'),
        r'3\.0': ('3x3', '3x3dbl_'),
        r'3\.[1-4]': ('1x1', '7x7_', '7x7dbl_', 'pool'),
        r'4\.0': ('3x3_', '7x7x3_'),
        r'4\.[12]': ('1x1', '3x3_', '3x3dbl_', 'pool')}
    renames = [(rf'^{theirs}\.', f'stages.{ours}.') for theirs, ours in names.items()]
    # convolutions side by side: 2a and 2b, 3a and 3b
    renames += [(rf'(\.branch3x3\w*_{i + 1}){letter}\.', rf'\1.branches.{j}.')
                for i in (1, 2) for j, letter in enumerate('ab')]
    for block, branches in paths.items():
        for i, branch in enumerate(branches):
            start = rf'^(stages\.{block})\.branch_?{branch}'
            if branch.endswith('_'):
                renames += [(rf'{start}{j + 1}\.', rf'\1.branches.{i}.{j}.') for j in range(5)]
            else:  # before the convolution of this branch stands its pooling
                renames.append((rf'{start}\.', rf'\1.branches.{i}.{int(branch == "pool")}.'))
    return [*renames, (r'\.bn\.', '.norm.'), (r'^fc\.', '../head.fc.')]


_DROPS = ((r'^AuxLogits\.', 'the auxiliary classifier only steers training'),)
_SIGNATURE = (r'^Conv2d_1a_3x3\.conv\.', r'^Mixed_7c\.branch3x3_2b\.')


@MODELS.register_module()
class InceptionV3(nn.Module):
    """Inception v3, for images of 299 pixels or others from 75 on.

    Args:
        in_channels: channels of the input.
        width: factor of all channels.
        with_padding: pad every convolution, so that maps have the image's size over their stride
            and lie over each other as detectors expect. Weights fit either way.
        norm: see ``make_norm``; by default batch normalisation with the ``eps=1e-3`` that all
            published weights want.
        act: see ``make_act``.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = tuple(KeyMap(source, _key_renames(), _DROPS, signature=_SIGNATURE)
                    for source in ('torchvision', 'timm', 'openmmlab'))

    def __init__(
        self,
        in_channels: int = 3,
        width: float = 1.0,
        with_padding: bool = False,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        self.out_stages = check_out_stages(out_stages, first=1, last=5)
        self._style: dict[str, Any] = {
            'norm': norm or {'type': nn.BatchNorm2d, 'eps': 1e-3}, 'act': act}
        self._width, self._with_padding = width, with_padding
        self.stages = nn.ModuleList()
        channels, widths = in_channels, []
        for parts in _STAGES[: self.out_stages[-1]]:
            blocks = nn.Sequential()
            for part in parts:
                block, channels = self._part(part, channels)
                blocks.append(block)
            self.stages.append(blocks)
            widths.append(channels)
        self.out_channels = tuple(widths[s - 1] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def _part(self, part: _Step | _Branches, channels: int) -> tuple[nn.Module, int]:
        """The module for a row of the tables, and the channels that it gives."""
        if isinstance(part, _Pool):
            if part.is_max:
                return nn.MaxPool2d(3, 2, 1 if self._with_padding else 0), channels
            return nn.AvgPool2d(3, 1, 1), channels
        if isinstance(part, _Conv):
            out = max(round(part.channels * self._width), 1)
            padding = None if part.padded or self._with_padding else 0
            conv = ConvNormAct(channels, out, part.kernel, part.stride, padding, **self._style)
            return conv, out
        branches, total = [], 0
        for steps in part:
            if isinstance(steps, _Conv):
                branch, out = self._part(steps, channels)
            else:
                branch, out = nn.Sequential(), channels
                for step in steps:
                    module, out = self._part(step, out)
                    branch.append(module)
            branches.append(branch)
            total += out
        return Parallel(branches), total

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, ~H / stride, ~W / stride), from x (B, 3, H, W)."""
        outs = []
        for stage, blocks in enumerate(self.stages, start=1):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
