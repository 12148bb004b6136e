"""ResNeSt: a ResNet whose 3x3 convolution has parallel versions that attention weighs by channel.

Zhang et al., Split-Attention Networks, https://arxiv.org/abs/2004.08955

The convolution of a block gives ``radix`` maps. A small bottleneck reads the means of their sum
and weighs them against each other, for each channel (section 3.1). Stages are counted as in
``ResNet``, from 2 (stride 4) to 5 (stride 32).

B batch · C channels · R radix · G groups · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

_DEPTHS = {  # blocks of the stages, channels of the stem
    14: ((1, 1, 1, 1), 64), 26: ((2, 2, 2, 2), 64), 50: ((3, 4, 6, 3), 64),
    101: ((3, 4, 23, 3), 128), 200: ((3, 24, 36, 3), 128), 269: ((3, 30, 48, 8), 128)}


class SplitAttention(nn.Module):
    """A 3x3 convolution that gives ``radix`` maps, and their sum weighted by attention.

    Args:
        channels: channels of the input and of the output map.
        radix: number of maps (R); with one, its channels are gated by a sigmoid.
        groups: groups of channels that do not see each other (G, the paper's cardinality).
        stride: step of the convolution.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, channels: int, radix: int, groups: int, stride: int = 1,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        self.radix, self.groups = radix, groups
        style: dict[str, Any] = {'norm': norm, 'act': act}
        hidden = max(channels * radix // 4, 32)
        self.conv = ConvNormAct(channels, channels * radix, 3, stride, groups=groups * radix,
                                **style)
        self.reduce = ConvNormAct(channels, hidden, 1, groups=groups, bias=True, **style)
        self.expand = nn.Conv2d(hidden, channels * radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / stride, W / stride)."""
        splits = self.conv(x).unflatten(1, (self.radix, -1))  # (B, R, C, H, W)
        logits = self.expand(self.reduce(splits.sum(1).mean((2, 3), keepdim=True)))
        # Groups are the outer dimension of what a grouped convolution gives.
        logits = logits.view(len(x), self.groups, self.radix, -1).transpose(1, 2)
        gate = logits.softmax(1) if self.radix > 1 else torch.sigmoid(logits)
        return (splits * gate.reshape(len(x), self.radix, -1, 1, 1)).sum(1)


class ResNeStBlock(nn.Module):
    """1x1 convolution, split attention, 1x1 convolution, with a residual.

    Args:
        in_channels: channels of the input map.
        width: a quarter of the channels that come out.
        stride: step of the block, made by average pooling.
        radix: see ``SplitAttention``.
        groups: see ``SplitAttention``.
        width_per_group: channels of each group where ``width`` is 64.
        pool_first: average before the attention instead of after it, which costs less.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, radix: int = 2,
                 groups: int = 1, width_per_group: int = 64, pool_first: bool = False,
                 drop_path: float = 0.0, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        inner = width * width_per_group // 64 * groups
        out = width * self.expansion
        self.pool_first = pool_first
        self.conv1 = ConvNormAct(in_channels, inner, 1, **style)
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.conv2 = SplitAttention(inner, radix, groups, **style)
        self.conv3 = ConvNormAct(inner, out, 1, with_act=False, **style)
        self.shortcut = make_shortcut(in_channels, out, stride, avg_down=True, norm=norm)
        self.drop_path = DropPath(drop_path)
        self.act = make_act(act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        y = self.conv1(x)
        y = self.conv2(self.pool(y)) if self.pool_first else self.pool(self.conv2(y))
        return self.act(self.drop_path(self.conv3(y)) + self.shortcut(x))


_BLOCK_KEYS = (
    *((rf'^layer{i + 1}\.', f'stages.{i}.') for i in range(4)),
    (r'\.conv2\.conv\.', '.conv2.conv.conv.'),
    (r'\.conv2\.bn0\.', '.conv2.conv.norm.'),
    (r'\.conv2\.fc1\.', '.conv2.reduce.conv.'),
    (r'\.conv2\.bn1\.', '.conv2.reduce.norm.'),
    (r'\.conv2\.fc2\.', '.conv2.expand.'),
    (r'\.(\d+)\.conv([13])\.', r'.\1.conv\2.conv.'),
    (r'\.(\d+)\.bn([13])\.', r'.\1.conv\2.norm.'),
    (r'^fc\.', '../head.fc.'),
)
_TIMM_KEYS = (
    *_BLOCK_KEYS,
    *((rf'^conv1\.{3 * i}\.', f'stem.{i}.conv.') for i in range(3)),
    (r'^conv1\.1\.', 'stem.0.norm.'),
    (r'^conv1\.4\.', 'stem.1.norm.'),
    (r'^bn1\.', 'stem.2.norm.'),
    (r'\.downsample\.1\.', '.shortcut.conv.'),
    (r'\.downsample\.2\.', '.shortcut.norm.'),
)
_OPENMMLAB_KEYS = (
    *_BLOCK_KEYS,
    (r'^(stem\.\d)\.bn\.', r'\1.norm.'),
    # OpenMMLab's list of a shortcut's layers begins with the pooling only where there is a stride.
    (r'^(stages\.0\..*)\.downsample\.0\.', r'\1.shortcut.conv.'),
    (r'^(stages\.0\..*)\.downsample\.1\.', r'\1.shortcut.norm.'),
    (r'\.downsample\.1\.', '.shortcut.conv.'),
    (r'\.downsample\.2\.', '.shortcut.norm.'),
)
# Detectors and segmentors keep the stem in one list.
_OPENMMLAB_DENSE_KEYS = (
    *((rf'^stem\.{3 * i}\.', f'part.{i}.conv.') for i in range(3)),
    *((rf'^stem\.{3 * i + 1}\.', f'part.{i}.norm.') for i in range(3)),
    (r'^part\.', 'stem.'),
    *_OPENMMLAB_KEYS,
)


@MODELS.register_module()
class ResNeSt(nn.Module):
    """ResNeSt of 14 to 269 layers, and its fast variants.

    The fast variants pool first: ``pool_first=True`` with ``radix``, ``groups`` and
    ``width_per_group`` as their names say (4s2x40d: 4, 2 and 40).

    Args:
        depth: 14, 26, 50, 101, 200 or 269: sets ``num_blocks`` and ``stem_channels`` where they
            are left out.
        num_blocks: blocks of each stage.
        radix: maps that the attention of a block weighs.
        groups: groups of channels in the attention.
        width_per_group: channels of each group in the first stage.
        pool_first: average before the attention instead of after it, which costs less.
        in_channels: channels of the input.
        base_channels: a quarter of the channels of the first stage.
        stem_channels: channels of the stem, half of them inside.
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
        KeyMap('timm', _TIMM_KEYS, signature=(r'^conv1\.6\.', r'^layer1\.0\.conv2\.bn0\.')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS,
               signature=(r'^stem\.0\.conv\.', r'^layer1\.0\.conv2\.bn0\.')),
        KeyMap('openmmlab', _OPENMMLAB_DENSE_KEYS,
               signature=(r'^stem\.6\.', r'^layer1\.0\.conv2\.bn0\.')),
    )

    def __init__(
        self,
        depth: int = 50,
        num_blocks: Sequence[int] | None = None,
        radix: int = 2,
        groups: int = 1,
        width_per_group: int = 64,
        pool_first: bool = False,
        in_channels: int = 3,
        base_channels: int = 64,
        stem_channels: int | None = None,
        drop_path: float = 0.0,
        zero_init_last: bool = True,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if depth not in _DEPTHS:
            raise ValueError(f'ResNeSt has depths {list(_DEPTHS)}, not {depth}; for another one '
                             'give num_blocks')
        if radix < 1 or groups < 1:
            raise ValueError('ResNeSt needs radix and groups of at least 1, not '
                             f'{radix} and {groups}')
        num_blocks = tuple(num_blocks or _DEPTHS[depth][0])
        self.out_stages = check_out_stages(out_stages, first=2, last=len(num_blocks) + 1)
        num_blocks = num_blocks[: self.out_stages[-1] - 1]
        channels = stem_channels or _DEPTHS[depth][1]
        self.stem = make_stem('deep', in_channels, channels, norm, act)
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        for i, num in enumerate(num_blocks):
            blocks = nn.Sequential()
            for j in range(num):
                blocks.append(ResNeStBlock(
                    channels, base_channels * 2**i, 2 if i and j == 0 else 1, radix, groups,
                    width_per_group, pool_first, next(probs), norm, act))
                channels = base_channels * 2**i * ResNeStBlock.expansion
            self.stages.append(blocks)
        self.out_channels = tuple(base_channels * 2**s for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)
        if zero_init_last:
            for part in self.modules():
                if isinstance(part, ResNeStBlock):
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
