"""CSPNet: networks whose stages send only half of their channels through the blocks.

Wang et al., Cross Stage Partial Networks, https://arxiv.org/abs/1911.11929; CSPDarkNet-53 is the
backbone of YOLOv4, Bochkovskiy et al., https://arxiv.org/abs/2004.10934

A stage halves its map, widens it, and splits the channels in two: one half passes the blocks of
the network it is made from (DarkNet, ResNet or ResNeXt), and both are merged. Stages are counted
by their stride: stage k ends at stride 2^k, and the last is 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openlab.backbones.darknet import DarkBlock, leaky_relu
from openlab.backbones.resnet import make_stem
from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


class _Size(NamedTuple):
    """What the sizes differ in."""

    stem: str
    stem_channels: int
    num_blocks: tuple[int, ...]
    channels: tuple[int, ...]  # that come out of each stage
    expanded: tuple[int, ...]  # that each stage splits
    hidden: tuple[int, ...]  # of the blocks
    groups: int = 1
    # Only DarkNet's halving convolution has the channels of its own stage already.
    is_dark: bool = False


_RESNET = ((3, 3, 5, 2), (128, 256, 512, 1024), (256, 512, 1024, 2048), (64, 128, 256, 512))
_SIZES = {
    'darknet53': _Size('conv3', 32, (1, 2, 8, 8, 4), (64, 128, 256, 512, 1024),
                       (128, 128, 256, 512, 1024), (32, 64, 128, 256, 512), is_dark=True),
    'resnet50': _Size('conv7', 64, *_RESNET),
    'resnet50d': _Size('deep', 64, *_RESNET),
    'resnext50': _Size('conv7', 64, (3, 3, 5, 2), (256, 512, 1024, 2048),
                       (256, 512, 1024, 2048), (128, 256, 512, 1024), groups=32),
}


class CSPBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around which the input is added.

    Args:
        channels: channels of the input and of the output map.
        hidden: channels of the 3x3 convolution.
        groups: its groups.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, channels: int, hidden: int, groups: int = 1, drop_path: float = 0.0,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.conv1 = ConvNormAct(channels, hidden, 1, **style)
        self.conv2 = ConvNormAct(hidden, hidden, 3, groups=groups, **style)
        self.conv3 = ConvNormAct(hidden, channels, 1, with_act=False, **style)
        self.drop_path = DropPath(drop_path)
        self.act = make_act(act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one of the same shape."""
        return self.act(x + self.drop_path(self.conv3(self.conv2(self.conv1(x)))))


class CSPStage(nn.Module):
    """Halve the map, send half of its channels through blocks, merge.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        expanded: channels that are split in two halves.
        blocks: what one half passes, which keeps its shape.
        down: the convolution that halves the map, or the identity.
        with_split_act: activate before the split.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, expanded: int, blocks: nn.Module,
                 down: nn.Module, with_split_act: bool, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.down = down
        self.expand = ConvNormAct(in_channels, expanded, 1, with_act=with_split_act, **style)
        self.blocks = blocks
        self.after = ConvNormAct(expanded // 2, expanded // 2, 1, **style)
        self.merge = ConvNormAct(expanded, out_channels, 1, **style)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        past, through = self.expand(self.down(x)).chunk(2, dim=1)
        return self.merge(torch.cat([past, self.after(self.blocks(through))], dim=1))


_TIMM_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'\.conv_down\.', '.down.'),
    (r'\.conv_exp\.', '.expand.'),
    (r'\.conv_transition_b\.', '.after.'),
    (r'\.conv_transition\.', '.merge.'),
    *((rf'^stem\.conv{i + 1}\.', f'stem.{i}.') for i in range(3)),
    (r'^head\.fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'\.conv(\d)\.(weight)', r'.conv\1.conv.\2'),  # blocks of ResNet and ResNeXt
    (r'\.bn(\d)\.', r'.conv\1.norm.'),
    (r'\.downsample_conv\.', '.down.'),
    (r'\.expand_conv\.', '.expand.'),
    (r'\.atfer_blocks_conv\.', '.after.'),  # as it is spelt in published files
    (r'\.final_conv\.', '.merge.'),
    (r'^stem\.(conv|norm)\.', r'stem.0.\1.'),
)


@MODELS.register_module()
class CSPNet(nn.Module):
    """Cross stage partial form of DarkNet-53, ResNet-50 or ResNeXt-50.

    Args:
        size: ``'darknet53'``, ``'resnet50'``, ``'resnet50d'`` or ``'resnext50'``.
        num_blocks: blocks of each stage; by default those of ``size``.
        width: factor of all channels.
        in_channels: channels of the input.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        norm: see ``make_norm``.
        act: see ``make_act``; by default LeakyReLU with a slope of 0.1. Published classifiers
            want 0.01, YOLOv4 ``torch.nn.Mish``.
        out_stages: stages whose maps come out, rising, up to 5 (stride 32), from 1 (stride 2) in
            ``'darknet53'`` and from 2 (stride 4) in the others.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, signature=(r'\.conv_transition_b\.',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'\.atfer_blocks_conv\.',)),
    )

    def __init__(
        self,
        size: str = 'darknet53',
        num_blocks: Sequence[int] | None = None,
        width: float = 1.0,
        in_channels: int = 3,
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'CSPNet has sizes {list(_SIZES)}, not {size!r}')
        table = _SIZES[size]
        num_blocks = tuple(num_blocks or table.num_blocks)
        if len(num_blocks) != len(table.channels):
            raise ValueError(f'CSPNet {size!r} has {len(table.channels)} stages but num_blocks is '
                             f'{num_blocks}')
        act = act or leaky_relu()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        first = self._first_stage = 6 - len(num_blocks)
        self.out_stages = check_out_stages(out_stages, first, last=5)
        num_blocks = num_blocks[: self.out_stages[-1] - first + 1]
        channels = round(width * table.stem_channels)
        self.stem = make_stem(table.stem, in_channels, channels, norm, act)
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        for i, num in enumerate(num_blocks):
            out, expanded, hidden = (round(width * numbers[i]) for numbers in (
                table.channels, table.expanded, table.hidden))
            down: nn.Module = nn.Identity()
            if i or table.is_dark:  # a ResNet's pooling halved the first map already
                wide = out if table.is_dark else channels
                down = ConvNormAct(channels, wide, 3, 2, groups=table.groups, **style)
                channels = wide
            blocks = nn.Sequential(*(
                DarkBlock(expanded // 2, hidden, next(probs), **style) if table.is_dark else
                CSPBottleneck(expanded // 2, hidden, table.groups, next(probs), **style)
                for _ in range(num)))
            self.stages.append(CSPStage(channels, out, expanded, blocks, down, table.is_dark,
                                        **style))
            channels = out
        self.out_channels = tuple(round(width * table.channels[s - first])
                                  for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=self._first_stage):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
