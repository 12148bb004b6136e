"""EfficientNet: one small network, scaled in width, depth and resolution together.

* B0 to B8, L2: Tan and Le, https://arxiv.org/abs/1905.11946
* V2: Tan and Le, https://arxiv.org/abs/2104.00298
* Lite (no squeeze and excitation, ReLU6, a stem that is not scaled): for phones, described at
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

The rows of the papers' tables are ``groups``. Stages are counted by their stride: stage k ends at
stride 2^k, and the fifth with the 1x1 convolution to 1280 channels (scaled).

Weights that were trained in TensorFlow want ``padding='same'`` and batch normalisation with
``eps=1e-3``; those of PyTorch the defaults. Either runs without an error, so a
config has to say which.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from openlab.backbones.mobilenet_v2 import round_channels
from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.layers.mbconv import FusedMBConv, MBConv
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


@dataclass(frozen=True)
class Group:
    """Blocks that are alike, a row of a paper's table.

    Attributes:
        fused: ``FusedMBConv`` blocks, else ``MBConv``.
        kernel: side of the filter.
        expansion: channels inside over channels of the input.
        channels: channels of the output.
        num: number of blocks.
        stride: stride of the first block.
    """

    fused: bool
    kernel: int
    expansion: int
    channels: int
    num: int
    stride: int


_B0 = (Group(False, 3, 1, 16, 1, 1), Group(False, 3, 6, 24, 2, 2), Group(False, 5, 6, 40, 2, 2),
       Group(False, 3, 6, 80, 3, 2), Group(False, 5, 6, 112, 3, 1), Group(False, 5, 6, 192, 4, 2),
       Group(False, 3, 6, 320, 1, 1))
_V2_B0 = (Group(True, 3, 1, 16, 1, 1), Group(True, 3, 4, 32, 2, 2), Group(True, 3, 4, 48, 2, 2),
          Group(False, 3, 4, 96, 3, 2), Group(False, 3, 6, 112, 5, 1),
          Group(False, 3, 6, 192, 8, 2))


def _v2(channels: Sequence[int], nums: Sequence[int]) -> tuple[Group, ...]:
    expansions, strides = (1, 4, 4, 4, 6, 6, 6), (1, 2, 2, 2, 1, 2, 1)
    return tuple(Group(i < 3, 3, expansions[i], c, n, strides[i])
                 for i, (c, n) in enumerate(zip(channels, nums)))


@dataclass(frozen=True)
class _Size:
    groups: tuple[Group, ...]
    stem: int = 32
    width: float = 1.0
    depth: float = 1.0
    lite: bool = False

    def scaled(self) -> tuple[Group, ...]:
        """The groups with this size's channels and numbers of blocks."""
        result = []
        for i, group in enumerate(self.groups):
            is_end = i in (0, len(self.groups) - 1)
            num = group.num if self.lite and is_end else math.ceil(group.num * self.depth)
            result.append(replace(
                group, channels=self._round(group.channels * self.width), num=num))
        return tuple(result)

    def _round(self, channels: float) -> int:
        # The released V2 networks round to the nearest; the older ones lose no more than a tenth.
        return int(channels + 4) // 8 * 8 if self.groups[0].fused else round_channels(channels)

    def fixed(self, channels: int) -> int:
        """Channels of the stem or the last convolution."""
        return channels if self.lite else self._round(channels * self.width)


_SIZES: dict[str, _Size] = {
    **{name: _Size(_B0, width=width, depth=depth) for name, width, depth in (
        ('b0', 1.0, 1.0), ('b1', 1.0, 1.1), ('b2', 1.1, 1.2), ('b3', 1.2, 1.4),
        ('b4', 1.4, 1.8), ('b5', 1.6, 2.2), ('b6', 1.8, 2.6), ('b7', 2.0, 3.1),
        ('b8', 2.2, 3.6), ('l2', 4.3, 5.3))},
    **{name: _Size(_B0, width=width, depth=depth, lite=True) for name, width, depth in (
        ('lite0', 1.0, 1.0), ('lite1', 1.0, 1.1), ('lite2', 1.1, 1.2), ('lite3', 1.2, 1.4),
        ('lite4', 1.4, 1.8))},
    **{name: _Size(_V2_B0, width=width, depth=depth) for name, width, depth in (
        ('v2_b0', 1.0, 1.0), ('v2_b1', 1.0, 1.1), ('v2_b2', 1.1, 1.2), ('v2_b3', 1.2, 1.4))},
    'v2_s': _Size(_v2((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15)), stem=24),
    'v2_m': _Size(_v2((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5)), stem=24),
    'v2_l': _Size(_v2((32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7))),
    'v2_xl': _Size(_v2((32, 64, 96, 192, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8))),
}


def _keys_by_group(*fused: int) -> list[tuple[str, str]]:
    """Renames inside the blocks of timm, where the groups ``fused`` are FusedMBConv."""
    is_fused = f'^(groups\\.[{"".join(map(str, fused))}]\\.\\d+)' if fused else '^(?!)()'
    return [
        (r'^blocks\.', 'groups.'),
        (r'\.se\.conv_reduce\.', '.se.reduce.'),
        (r'\.se\.conv_expand\.', '.se.expand.'),
        (is_fused + r'\.conv(?:_exp)?\.', r'\1.expand.conv.'),
        (is_fused + r'\.bn1\.', r'\1.expand.norm.'),
        (is_fused + r'\.conv_pwl\.', r'\1.project.conv.'),
        (is_fused + r'\.bn2\.', r'\1.project.norm.'),
        *(() if fused else (
            (r'^(groups\.0\.\d+)\.conv_dw\.', r'\1.depthwise.conv.'),
            (r'^(groups\.0\.\d+)\.bn1\.', r'\1.depthwise.norm.'),
            (r'^(groups\.0\.\d+)\.conv_pw\.', r'\1.project.conv.'),
            (r'^(groups\.0\.\d+)\.bn2\.', r'\1.project.norm.'))),
        (r'\.conv_pw\.', '.expand.conv.'),
        (r'\.(\d+)\.bn1\.', r'.\1.expand.norm.'),
        (r'\.conv_dw\.', '.depthwise.conv.'),
        (r'\.(\d+)\.bn2\.', r'.\1.depthwise.norm.'),
        (r'\.conv_pwl\.', '.project.conv.'),
        (r'\.bn3\.', '.project.norm.'),
        (r'^conv_stem\.', 'stem.conv.'),
        (r'^bn1\.', 'stem.norm.'),
        (r'^conv_head\.', 'last.conv.'),
        (r'^bn2\.', 'last.norm.'),
        (r'^classifier\.', '../head.fc.'),
    ]


def _torchvision_keys(with_fused: bool) -> list[tuple[str, str]]:
    """Renames of torchvision: ``features.0`` is the stem, then the groups, then the last."""
    first = [(r'^(features\.1\.\d+)\.block\.0\.', r'\1.depthwise.'),
             (r'^(features\.1\.\d+)\.block\.1\.', r'\1.se.'),
             (r'^(features\.1\.\d+)\.block\.2\.', r'\1.project.')]
    if with_fused:
        first = [(r'^(features\.[123]\.\d+)\.block\.0\.', r'\1.expand.'),
                 (r'^(features\.[123]\.\d+)\.block\.1\.', r'\1.project.')]
    return [
        *first,
        (r'\.block\.0\.', '.expand.'),
        (r'\.block\.1\.', '.depthwise.'),
        (r'\.block\.2\.', '.se.'),
        (r'\.block\.3\.', '.project.'),
        (r'\.(expand|depthwise|project)\.0\.', r'.\1.conv.'),
        (r'\.(expand|depthwise|project)\.1\.', r'.\1.norm.'),
        (r'\.se\.fc1\.', '.se.reduce.'),
        (r'\.se\.fc2\.', '.se.expand.'),
        (r'^features\.0\.0\.', 'stem.conv.'),
        (r'^features\.0\.1\.', 'stem.norm.'),
        # a block has more after its number
        (r'^features\.[78]\.0\.(\w+)$', r'last.conv.\1'),
        (r'^features\.[78]\.1\.(\w+)$', r'last.norm.\1'),
        *((rf'^features\.{i + 1}\.', f'groups.{i}.') for i in range(7)),
        (r'^classifier\.1\.', '../head.fc.'),
    ]


_OPENMMLAB_KEYS = (
    (r'\.se\.conv1\.conv\.', '.se.reduce.'),
    (r'\.se\.conv2\.conv\.', '.se.expand.'),
    (r'\.bn\.', '.norm.'),
    (r'\.expand_conv\.', '.expand.'),
    (r'\.depthwise_conv\.', '.depthwise.'),
    (r'\.linear_conv\.', '.project.'),
    (r'^layers\.0\.', 'stem.'),
    (r'^layers\.\d\.(conv|norm)\.', r'last.\1.'),
)
_OPENMMLAB_V2_KEYS = (
    *_OPENMMLAB_KEYS,
    (r'^(layers\.\d\.\d+)\.(conv|norm)\.', r'\1.expand.\2.'),
    (r'\.conv1\.', '.expand.'),
    (r'\.conv2\.', '.project.'),
    *((rf'^layers\.{i + 1}\.', f'groups.{i}.') for i in range(7)),
)
_LUKEMELAS_KEYS = (
    (r'\._expand_conv\.', '.expand.conv.'),
    (r'\._bn0\.', '.expand.norm.'),
    (r'\._depthwise_conv\.', '.depthwise.conv.'),
    (r'\._bn1\.', '.depthwise.norm.'),
    (r'\._se_reduce\.', '.se.reduce.'),
    (r'\._se_expand\.', '.se.expand.'),
    (r'\._project_conv\.', '.project.conv.'),
    (r'\._bn2\.', '.project.norm.'),
    (r'^_conv_stem\.', 'stem.conv.'),
    (r'^_bn0\.', 'stem.norm.'),
    (r'^_conv_head\.', 'last.conv.'),
    (r'^_bn1\.', 'last.norm.'),
    (r'^_fc\.', '../head.fc.'),
)
_TRANSFORMERS_KEYS = (
    (r'^efficientnet\.', ''),
    (r'^encoder\.', ''),
    (r'\.expansion\.expand_conv\.', '.expand.conv.'),
    (r'\.expansion\.expand_bn\.', '.expand.norm.'),
    (r'\.depthwise_conv\.depthwise_conv\.', '.depthwise.conv.'),
    (r'\.depthwise_conv\.depthwise_norm\.', '.depthwise.norm.'),
    (r'\.squeeze_excite\.', '.se.'),
    (r'\.projection\.project_conv\.', '.project.conv.'),
    (r'\.projection\.project_bn\.', '.project.norm.'),
    (r'^embeddings\.convolution\.', 'stem.conv.'),
    (r'^embeddings\.batchnorm\.', 'stem.norm.'),
    (r'^top_conv\.', 'last.conv.'),
    (r'^top_bn\.', 'last.norm.'),
    (r'^classifier\.', '../head.fc.'),
)


def _maps_by_depth() -> list[KeyMap]:
    """Maps of sources that count blocks through, one for each list of numbers of blocks.

    The deepest come first: their highest block is in no shallower network.
    """
    depths = {tuple(g.num for g in size.scaled())
              for name, size in _SIZES.items() if not name.startswith('v2')}
    maps = []
    for nums in sorted(depths, key=sum, reverse=True):
        places = [(g, i) for g, num in enumerate(nums) for i in range(num)]
        maps.append(KeyMap(
            'lukemelas',
            [*((rf'^_blocks\.{k}\.', f'groups.{g}.{i}.') for k, (g, i) in enumerate(places)),
             *_LUKEMELAS_KEYS],
            signature=[rf'^_blocks\.{len(places) - 1}\.', r'^_conv_stem\.']))
        maps.append(KeyMap(
            'transformers',
            [*_TRANSFORMERS_KEYS,
             *((rf'^blocks\.{k}\.', f'groups.{g}.{i}.') for k, (g, i) in enumerate(places))],
            signature=[rf'encoder\.blocks\.{len(places) - 1}\.projection\.']))
        # OpenMMLab lists groups of one stride together, so these two start in mid-list.
        late = [(f'layers.4.{nums[3] + i}', f'groups.4.{i}') for i in range(nums[4])]
        late += [(f'layers.5.{nums[5] + i}', f'groups.6.{i}') for i in range(nums[6])]
        maps.append(KeyMap(
            'openmmlab',
            [*_OPENMMLAB_KEYS,
             *(('^' + re.escape(theirs + '.'), ours + '.') for theirs, ours in late),
             (r'^layers\.5\.', 'groups.5.'),
             *((rf'^layers\.{k + 1}\.', f'groups.{k}.') for k in range(4))],
            signature=[rf'^layers\.4\.{nums[3] + nums[4] - 1}\.',
                       rf'^layers\.5\.{nums[5] + nums[6] - 1}\.', r'^layers\.6\.conv\.']))
    return maps


@MODELS.register_module()
class EfficientNet(nn.Module):
    """EfficientNet of any published size.

    Args:
        size: ``'b0'`` to ``'b8'``, ``'l2'``, ``'lite0'`` to ``'lite4'``, ``'v2_b0'`` to
            ``'v2_b3'``, ``'v2_s'``, ``'v2_m'``, ``'v2_l'`` or ``'v2_xl'``.
        in_channels: channels of the input.
        width: a further factor of all channel numbers.
        depth: a further factor of the numbers of blocks.
        last_channels: channels of the 1x1 convolution that ends stage 5, before scaling; 0 leaves
            it out, as detectors want.
        padding: ``'same'`` is TensorFlow's rule, see ``Conv2dSame``.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        norm: see ``make_norm``.
        act: see ``make_act``; by default SiLU, and ReLU6 in the lite sizes.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _torchvision_keys(False),
               signature=(r'^features\.2\.0\.block\.3\.', r'^features\.1\.0\.block\.1\.fc1')),
        KeyMap('torchvision', _torchvision_keys(True),
               signature=(r'^features\.4\.0\.block\.3\.', r'^features\.1\.0\.block\.0\.0')),
        KeyMap('timm', _keys_by_group(),
               signature=(r'^conv_stem\.', r'^blocks\.1\.0\.conv_dw', r'^blocks\.0\.0\.conv_dw')),
        KeyMap('timm', _keys_by_group(0, 1, 2),
               signature=(r'^conv_stem\.', r'^blocks\.1\.0\.conv_exp')),
        KeyMap('openmmlab', _OPENMMLAB_V2_KEYS, signature=(r'^layers\.1\.0\.conv\.',)),
        *_maps_by_depth(),
    )

    def __init__(
        self,
        size: str = 'b0',
        in_channels: int = 3,
        width: float = 1.0,
        depth: float = 1.0,
        last_channels: int = 1280,
        padding: Literal['symmetric', 'same'] = 'symmetric',
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'EfficientNet has sizes {list(_SIZES)}, not {size!r}')
        if padding not in ('symmetric', 'same'):
            raise ValueError(f"padding is 'symmetric' or 'same', not {padding!r}")
        self.out_stages = check_out_stages(out_stages, first=1, last=5)
        base = _SIZES[size]
        scale = replace(base, width=base.width * width, depth=base.depth * depth)
        groups = scale.scaled()
        style: dict[str, Any] = {
            'norm': norm, 'act': act or {'type': nn.ReLU6 if base.lite else nn.SiLU},
            'padding': 'same' if padding == 'same' else None}
        channels = scale.fixed(base.stem)
        self.stem = ConvNormAct(in_channels, channels, 3, 2, **style)
        probs = iter(drop_path_probs(drop_path, sum(g.num for g in groups)))
        self.groups = nn.ModuleList()
        self._stage_of_group: list[int] = []
        stage_channels, stage = {1: channels}, 1
        for group in groups:
            stage += group.stride == 2
            if stage > self.out_stages[-1]:
                break
            self.groups.append(nn.Sequential(*(
                _make_block(group, channels if i == 0 else group.channels, i, not base.lite,
                            next(probs), style) for i in range(group.num))))
            channels = stage_channels[stage] = group.channels
            self._stage_of_group.append(stage)
        self.last: nn.Module = nn.Identity()
        if last_channels and self.out_stages[-1] == 5:
            stage_channels[5] = scale.fixed(last_channels)
            self.last = ConvNormAct(channels, stage_channels[5], 1, norm=norm, act=style['act'])
        self.out_channels = tuple(stage_channels[s] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        maps: dict[int, Tensor] = {}
        for stage, blocks in zip(self._stage_of_group, self.groups):
            x = maps[stage] = blocks(x)
        if 5 in maps:
            maps[5] = self.last(x)
        return tuple(maps[stage] for stage in self.out_stages)


def _make_block(group: Group, in_channels: int, index: int, with_se: bool, drop_path: float,
                style: dict[str, Any]) -> nn.Module:
    sizes = (in_channels, group.channels, in_channels * group.expansion, group.kernel,
             group.stride if index == 0 else 1)
    if group.fused:
        return FusedMBConv(*sizes, drop_path=drop_path, **style)
    return MBConv(*sizes, se_hidden=in_channels // 4 if with_se else 0, drop_path=drop_path,
                  **style)
