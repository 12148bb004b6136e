"""ShuffleNetV2: half of the channels pass, the other half is filtered, then both are shuffled.

Ma et al., https://arxiv.org/abs/1807.11164

Stages are counted by their stride: the stem is stages 1 and 2, stages 3 to 5 hold the blocks, and
the fifth ends with the last 1x1 convolution.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.init import init_conv_net
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_WIDTHS: dict[float, tuple[int, int, int, int]] = {  # stages 3, 4 and 5, last convolution
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class ShuffleBlock(nn.Module):
    """One half of the channels of the output is (almost) the input, the other is filtered.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map, even; those of the input at stride 1.
        stride: 1 splits the input's channels; 2 gives both branches all of them.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        if stride == 1 and in_channels != out_channels:
            raise ValueError(f'a block of stride 1 keeps its channels: {in_channels} in, '
                             f'{out_channels} out')
        style: dict[str, Any] = {'norm': norm, 'act': act}
        half = out_channels // 2
        inner = half if stride == 1 else in_channels
        self.is_split = stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels,
                            with_act=False, **style),
                ConvNormAct(in_channels, half, 1, **style))
        self.branch = nn.Sequential(
            ConvNormAct(inner, half, 1, **style),
            ConvNormAct(half, half, 3, stride, groups=half, with_act=False, **style),
            ConvNormAct(half, half, 1, **style))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        first, second = x.chunk(2, dim=1) if self.is_split else (self.shortcut(x), x)
        y = torch.cat([first, self.branch(second)], dim=1)
        return F.channel_shuffle(y, 2)


_TORCHVISION_KEYS = (
    (r'\.branch1\.0\.', '.shortcut.0.conv.'),
    (r'\.branch1\.1\.', '.shortcut.0.norm.'),
    (r'\.branch1\.2\.', '.shortcut.1.conv.'),
    (r'\.branch1\.3\.', '.shortcut.1.norm.'),
    (r'\.branch2\.0\.', '.branch.0.conv.'),
    (r'\.branch2\.1\.', '.branch.0.norm.'),
    (r'\.branch2\.3\.', '.branch.1.conv.'),
    (r'\.branch2\.4\.', '.branch.1.norm.'),
    (r'\.branch2\.5\.', '.branch.2.conv.'),
    (r'\.branch2\.6\.', '.branch.2.norm.'),
    (r'^conv1\.0\.', 'stem.conv.'),
    (r'^conv1\.1\.', 'stem.norm.'),
    (r'^conv5\.0\.', 'last.conv.'),
    (r'^conv5\.1\.', 'last.norm.'),
    *((rf'^stage{i + 2}\.', f'stages.{i}.') for i in range(3)),
    (r'^fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'\.branch1\.', '.shortcut.'),
    (r'\.branch2\.', '.branch.'),
    (r'^conv1\.', 'stem.'),
    (r'^layers\.3\.', 'last.'),
    (r'^layers\.', 'stages.'),
)


@MODELS.register_module()
class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 of width 0.5, 1, 1.5 or 2.

    Args:
        width: 0.5, 1.0, 1.5 or 2.0.
        num_blocks: blocks of each of the three stages.
        in_channels: channels of the input.
        last_channels: channels of the 1x1 convolution that ends stage 5; by default the paper's,
            0 leaves it out.
        norm: see ``make_norm``.
        act: see ``make_act``.
        out_stages: stages whose maps come out, rising, from 2 (the stem, stride 4) to 5 (stride
            32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _TORCHVISION_KEYS, signature=(r'^stage2\.0\.branch1\.0\.',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^layers\.0\.0\.branch1\.0\.conv\.',)),
    )

    def __init__(
        self,
        width: float = 1.0,
        num_blocks: Sequence[int] = (4, 8, 4),
        in_channels: int = 3,
        last_channels: int | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if width not in _WIDTHS:
            raise ValueError(f'ShuffleNetV2 has widths {list(_WIDTHS)}, not {width}')
        self.out_stages = check_out_stages(out_stages, first=2, last=5)
        style: dict[str, Any] = {'norm': norm, 'act': act}
        *widths, last = _WIDTHS[width]
        channels = stem_channels = 24
        self.stem = ConvNormAct(in_channels, channels, 3, 2, **style)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for out, num in list(zip(widths, num_blocks))[: self.out_stages[-1] - 2]:
            self.stages.append(nn.Sequential(
                ShuffleBlock(channels, out, 2, **style),
                *(ShuffleBlock(out, out, **style) for _ in range(num - 1))))
            channels = out
        last_channels = last if last_channels is None else last_channels
        self.last: nn.Module = nn.Identity()
        if last_channels and self.out_stages[-1] == 5:
            self.last = ConvNormAct(channels, last_channels, 1, **style)
            widths[-1] = last_channels
        self.out_channels = tuple((stem_channels, *widths)[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.pool(self.stem(x))
        outs = [x] if self.out_stages[0] == 2 else []
        for stage, blocks in enumerate(self.stages, start=3):
            x = blocks(x)
            if stage == 5:
                x = self.last(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
