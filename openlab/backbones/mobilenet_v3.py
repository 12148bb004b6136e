"""MobileNetV3: inverted residual blocks whose sizes were searched for phones.

Howard et al., https://arxiv.org/abs/1905.02244

The rows of the paper's tables 1 and 2 are ``blocks``. Stages are counted by their stride: stage k
ends at stride 2^k, and the fifth with the last 1x1 convolution. The paper's 1x1 convolution behind
the pooling is the head's hidden layer (``MLPHead(hidden_channels=(1280,), act=Hardswish)``).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from openlab.backbones.mobilenet_v2 import round_channels
from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.layers.mbconv import MBConv
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

# kernel, channels inside, channels, squeeze and excitation, hard swish (else ReLU), stride
_Row = tuple[int, int, int, bool, bool, int]
_SIZES: dict[str, tuple[_Row, ...]] = {
    'large': (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1)),
    'small': (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1)),
}
_TIMM_GROUPS = {'large': (1, 2, 3, 4, 2, 3), 'small': (1, 2, 3, 2, 3)}


def _torchvision_map(size: str) -> KeyMap:
    num = len(_SIZES[size])
    first = ('depthwise', 'project') if size == 'large' else ('depthwise', 'se', 'project')
    renames = [(rf'^features\.1\.block\.{i}\.', f'features.1.{part}.')
               for i, part in enumerate(first)]
    for k, row in enumerate(_SIZES[size][1:], start=2):
        parts = ('expand', 'depthwise', *(('se',) if row[3] else ()), 'project')
        renames += [(rf'^features\.{k}\.block\.{i}\.', f'features.{k}.{part}.')
                    for i, part in enumerate(parts)]
    return KeyMap('torchvision', [
        *renames,
        (r'\.(expand|depthwise|project)\.0\.', r'.\1.conv.'),
        (r'\.(expand|depthwise|project)\.1\.', r'.\1.norm.'),
        (r'\.se\.fc1\.', '.se.reduce.'),
        (r'\.se\.fc2\.', '.se.expand.'),
        (r'^features\.0\.0\.', 'stem.conv.'),
        (r'^features\.0\.1\.', 'stem.norm.'),
        (rf'^features\.{num + 1}\.0\.', 'last.conv.'),
        (rf'^features\.{num + 1}\.1\.', 'last.norm.'),
        *((rf'^features\.{k + 1}\.', f'blocks.{k}.') for k in range(num)),
        (r'^classifier\.0\.', '../head.hidden.0.'),
        (r'^classifier\.3\.', '../head.fc.'),
    ], signature=[rf'^features\.{num + 1}\.0\.weight', r'^features\.1\.block\.0\.0\.'])


def _timm_map(size: str) -> KeyMap:
    groups = _TIMM_GROUPS[size]
    places = [(g, i) for g, num in enumerate(groups) for i in range(num)]
    return KeyMap('timm', [
        (r'\.se\.conv_reduce\.', '.se.reduce.'),
        (r'\.se\.conv_expand\.', '.se.expand.'),
        (r'^blocks\.0\.0\.conv_dw\.', 'blocks.0.0.depthwise.conv.'),
        (r'^blocks\.0\.0\.bn1\.', 'blocks.0.0.depthwise.norm.'),
        (r'^blocks\.0\.0\.conv_pw\.', 'blocks.0.0.project.conv.'),
        (r'^blocks\.0\.0\.bn2\.', 'blocks.0.0.project.norm.'),
        (rf'^blocks\.{len(groups)}\.0\.conv\.', 'last.conv.'),
        (rf'^blocks\.{len(groups)}\.0\.bn1\.', 'last.norm.'),
        (r'\.conv_pw\.', '.expand.conv.'),
        (r'\.(\d+)\.bn1\.', r'.\1.expand.norm.'),
        (r'\.conv_dw\.', '.depthwise.conv.'),
        (r'\.(\d+)\.bn2\.', r'.\1.depthwise.norm.'),
        (r'\.conv_pwl\.', '.project.conv.'),
        (r'\.bn3\.', '.project.norm.'),
        *((rf'^blocks\.{g}\.{i}\.', f'flat.{k}.') for k, (g, i) in enumerate(places)),
        (r'^flat\.', 'blocks.'),
        (r'^conv_stem\.', 'stem.conv.'),
        (r'^bn1\.', 'stem.norm.'),
        (r'^conv_head\.', '../head.hidden.0.'),
        (r'^classifier\.', '../head.fc.'),
    ], transforms=[(r'head\.hidden\.0\.weight$', lambda tensor: tensor.flatten(1))],
        signature=[rf'^blocks\.{len(groups)}\.0\.conv\.', r'^conv_head\.'])


def _openmmlab_map(size: str) -> KeyMap:
    num = len(_SIZES[size])
    return KeyMap('openmmlab', [
        (r'\.se\.conv1\.conv\.', '.se.reduce.'),
        (r'\.se\.conv2\.conv\.', '.se.expand.'),
        (r'\.bn\.', '.norm.'),
        (r'\.expand_conv\.', '.expand.'),
        (r'\.depthwise_conv\.', '.depthwise.'),
        (r'\.linear_conv\.', '.project.'),
        (r'^layer0\.', 'stem.'),
        (rf'^layer{num + 1}\.', 'last.'),
        *((rf'^layer{k + 1}\.', f'blocks.{k}.') for k in range(num)),
    ], signature=[rf'^layer{num + 1}\.conv\.'])


@MODELS.register_module()
class MobileNetV3(nn.Module):
    """MobileNetV3, large or small.

    Args:
        size: ``'large'`` or ``'small'``.
        width: factor of all channel numbers, which are then rounded to multiples of 8.
        scaling: how ``width`` acts inside blocks: ``'table'`` scales the table's channels (as
            torchvision does), ``'ratio'`` keeps their ratio to the rounded input, and the stem as
            it is below a width of 0.75 (timm, OpenMMLab). At width 1 both are the same.
        in_channels: channels of the input.
        padding: ``'same'`` is TensorFlow's rule, see ``Conv2dSame``; weights that were trained
            there want it.
        with_last: end stage 5 with the 1x1 convolution; detectors want it left out.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        norm: see ``make_norm``. Weights of torchvision want ``eps=1e-3``.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        *(_torchvision_map(size) for size in _SIZES),
        *(_timm_map(size) for size in _SIZES),
        *(_openmmlab_map(size) for size in _SIZES),
    )

    def __init__(
        self,
        size: Literal['large', 'small'] = 'large',
        width: float = 1.0,
        scaling: Literal['table', 'ratio'] = 'table',
        in_channels: int = 3,
        padding: Literal['symmetric', 'same'] = 'symmetric',
        with_last: bool = True,
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'MobileNetV3 has sizes {list(_SIZES)}, not {size!r}')
        self.out_stages = check_out_stages(out_stages, first=1, last=5)
        hard_swish: dict[str, Any] = {'type': nn.Hardswish}
        if scaling not in ('table', 'ratio'):
            raise ValueError(f"scaling is 'table' or 'ratio', not {scaling!r}")
        if padding not in ('symmetric', 'same'):
            raise ValueError(f"padding is 'symmetric' or 'same', not {padding!r}")
        pad: Literal['same'] | None = 'same' if padding == 'same' else None
        by_ratio = scaling == 'ratio'
        base_in = 16
        channels = 16 if by_ratio and width < 0.75 else round_channels(16 * width)
        self.stem = ConvNormAct(in_channels, channels, 3, 2, pad, norm=norm, act=hard_swish)
        rows = _SIZES[size]
        probs = drop_path_probs(drop_path, len(rows))
        self.blocks = nn.ModuleList()
        self._stage_of_block: list[int] = []
        stage_channels, stage = {1: channels}, 1
        for (kernel, hidden, base, with_se, swish, stride), prob in zip(rows, probs):
            stage += stride == 2
            if stage > self.out_stages[-1]:
                break
            inner = round_channels(hidden / base_in * channels if by_ratio else hidden * width)
            out, base_in = round_channels(base * width), base
            self.blocks.append(MBConv(
                channels, out, inner, kernel, stride,
                se_hidden=round_channels(inner / 4) if with_se else 0, se_act={'type': nn.ReLU},
                se_gate={'type': nn.Hardsigmoid}, drop_path=prob, padding=pad, norm=norm,
                act=hard_swish if swish else {'type': nn.ReLU}))
            channels = stage_channels[stage] = out
            self._stage_of_block.append(stage)
        self.last: nn.Module = nn.Identity()
        if with_last and self.out_stages[-1] == 5:
            stage_channels[5] = round_channels(rows[-1][1] * width)
            self.last = ConvNormAct(channels, stage_channels[5], 1, norm=norm, act=hard_swish)
        self.out_channels = tuple(stage_channels[s] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        maps = {1: x}
        for stage, block in zip(self._stage_of_block, self.blocks):
            x = block(x)
            maps = {s: m for s, m in maps.items() if s in self.out_stages} | {stage: x}
        if 5 in maps:
            maps[5] = self.last(x)
        return tuple(maps[stage] for stage in self.out_stages)
