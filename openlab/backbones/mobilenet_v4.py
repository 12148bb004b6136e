"""MobileNetV4: one block that becomes any of the mobile ones, and attention that phones can afford.

Qin et al., https://arxiv.org/abs/2404.10518

The universal inverted bottleneck (section 3) may filter each channel before it expands, in the
middle, both or neither. The hybrid sizes add attention whose queries share one key and one value
(section 4). The rows of the paper's tables 11 to 15 are ``_SIZES``. Stages are counted by their
stride: stage k ends at stride 2^k, and the fifth with the last 1x1 convolution. The 1x1
convolution behind the pooling is the head's hidden layer:
``MLPHead(hidden_channels=(1280,), norm=dict(type=BatchNorm1d))``.

B batch · C channels · M heads · D channels of a head · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from openlab.backbones.mobilenet_v2 import round_channels
from openlab.backbones.stages import check_out_stages
from openlab.layers.attention import attend
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.layers.mbconv import FusedMBConv
from openlab.layers.norm import make_norm
from openlab.layers.pool import BlurPool2d
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


class _Conv(NamedTuple):
    """A plain convolution."""

    kernel: int
    channels: int


class _Fused(NamedTuple):
    """Expansion and filter in one convolution."""

    ratio: float


class _UIB(NamedTuple):
    """A universal inverted bottleneck: kernels of its filters (0: none) and its expansion."""

    start: int
    middle: int
    ratio: float


class _MQA(NamedTuple):
    """Attention; keys and values come from a map that is ``kv_stride`` times smaller."""

    num_heads: int
    head_dim: int
    kv_stride: int


_Row = _Conv | _Fused | _UIB | _MQA


def _repeat(times: int, *rows: _Row) -> list[_Row]:
    return list(rows) * times


class _Size(NamedTuple):
    """A size: channels of the stem, of stages 2 to 5, activation, and what the stages hold."""

    stem_channels: int
    channels: tuple[int, int, int, int]
    stages: tuple[Sequence[_Row], ...]
    act: type[nn.Module] = nn.ReLU
    layer_scale: float | None = None


_MEDIUM_MQA = (_MQA(4, 64, 2), _MQA(4, 64, 1))
_LARGE_MQA = (_MQA(8, 48, 2), _MQA(8, 64, 1))
_SIZES: dict[str, _Size] = {
    'conv_small': _Size(32, (32, 64, 96, 128), (
        (_Conv(3, 32), _Conv(1, 32)),
        (_Conv(3, 96), _Conv(1, 64)),
        (_UIB(5, 5, 3), *[_UIB(0, 3, 2)] * 4, _UIB(3, 0, 4)),
        (_UIB(3, 3, 6), _UIB(5, 5, 4), _UIB(0, 5, 4), _UIB(0, 5, 3), *[_UIB(0, 3, 4)] * 2))),
    'conv_medium': _Size(32, (48, 80, 160, 256), (
        (_Fused(4),),
        (_UIB(3, 5, 4), _UIB(3, 3, 2)),
        (_UIB(3, 5, 6), *[_UIB(3, 3, 4)] * 2, _UIB(3, 5, 4), _UIB(3, 3, 4), _UIB(3, 0, 4),
         _UIB(0, 0, 2), _UIB(3, 0, 4)),
        (_UIB(5, 5, 6), _UIB(5, 5, 4), *[_UIB(3, 5, 4)] * 2, _UIB(0, 0, 4), _UIB(3, 0, 4),
         _UIB(3, 5, 2), _UIB(5, 5, 4), *[_UIB(0, 0, 4)] * 2, _UIB(5, 0, 2)))),
    'conv_large': _Size(24, (48, 96, 192, 512), (
        (_Fused(4),),
        (_UIB(3, 5, 4), _UIB(3, 3, 4)),
        (_UIB(3, 5, 4), *[_UIB(3, 3, 4)] * 3, _UIB(3, 5, 4), *[_UIB(5, 3, 4)] * 5,
         _UIB(3, 0, 4)),
        (*[_UIB(5, 5, 4)] * 4, _UIB(5, 0, 4), _UIB(5, 3, 4), *[_UIB(5, 0, 4)] * 2, _UIB(5, 3, 4),
         _UIB(5, 5, 4), *[_UIB(5, 0, 4)] * 3))),
    'hybrid_medium': _Size(32, (48, 80, 160, 256), (
        (_Fused(4),),
        (_UIB(3, 5, 4), _UIB(3, 3, 2)),
        (_UIB(3, 5, 6), _UIB(0, 0, 2), _UIB(3, 3, 4), _UIB(3, 5, 4), _MEDIUM_MQA[0],
         _UIB(3, 3, 4), _MEDIUM_MQA[0], _UIB(3, 0, 4), _MEDIUM_MQA[0], _UIB(3, 3, 4),
         _MEDIUM_MQA[0], _UIB(3, 0, 4)),
        (_UIB(5, 5, 6), _UIB(5, 5, 4), *[_UIB(3, 5, 4)] * 2, _UIB(0, 0, 2), _UIB(3, 5, 2),
         _UIB(0, 0, 2), _UIB(0, 0, 4), _MEDIUM_MQA[1], _UIB(3, 0, 4), _MEDIUM_MQA[1],
         _UIB(5, 5, 4), _MEDIUM_MQA[1], _UIB(5, 0, 4), _MEDIUM_MQA[1], _UIB(5, 0, 4))),
        layer_scale=1e-5),
    'hybrid_large': _Size(24, (48, 96, 192, 512), (
        (_Fused(4),),
        (_UIB(3, 5, 4), _UIB(3, 3, 4)),
        (_UIB(3, 5, 4), *[_UIB(3, 3, 4)] * 3, _UIB(3, 5, 4), *[_UIB(5, 3, 4)] * 2,
         *_repeat(3, _LARGE_MQA[0], _UIB(5, 3, 4)), _LARGE_MQA[0], _UIB(3, 0, 4)),
        (*[_UIB(5, 5, 4)] * 4, _UIB(5, 0, 4), _UIB(5, 3, 4), *[_UIB(5, 0, 4)] * 2, _UIB(5, 3, 4),
         _UIB(5, 5, 4), *_repeat(4, _LARGE_MQA[1], _UIB(5, 0, 4)))),
        act=nn.GELU, layer_scale=1e-5),
}


class UniversalInvertedBottleneck(nn.Module):
    """Filter, expand by 1x1, filter, project by 1x1; each filter may be left out.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        hidden: channels inside.
        start: side of the filter before the expansion; 0 leaves it out.
        middle: side of the filter behind the expansion; 0 leaves it out.
        stride: step of the block, made by its last filter.
        pool: ``'mean'`` or ``'blur'`` makes the step behind the filter, see ``MobileNetV4``.
        layer_scale: first value of the learned scale of the branch; ``None`` does without.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, start: int, middle: int,
                 stride: int = 1, pool: str | None = None, layer_scale: float | None = None,
                 drop_path: float = 0.0, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        if stride > 1 and not start and not middle:
            raise ValueError('a block without filters has no stride: give start or middle')
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.start: nn.Module = nn.Identity()
        self.middle: nn.Module = nn.Identity()
        if start:
            self.start = _striding(
                in_channels, in_channels, start, 1 if middle else stride, pool,
                groups=in_channels, with_act=False, **style)
        self.expand = ConvNormAct(in_channels, hidden, 1, **style)
        if middle:
            self.middle = _striding(hidden, hidden, middle, stride, pool, groups=hidden, **style)
        self.project = ConvNormAct(hidden, out_channels, 1, with_act=False, **style)
        self.scale = _scale(out_channels, layer_scale)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.project(self.middle(self.expand(self.start(x))))
        if self.scale is not None:
            y = y * self.scale[:, None, None]
        return x + self.drop_path(y) if self.is_residual else y


class MobileAttention(nn.Module):
    """Attention over a map with one key and one value for all heads, with a residual.

    Args:
        channels: channels of the input and of the output map.
        num_heads: number of queries at each position.
        head_dim: channels of each query, of the key and of the value.
        kv_stride: step between positions of which keys and values are made.
        layer_scale: first value of the learned scale of the branch; ``None`` does without.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int, kv_stride: int = 1,
                 layer_scale: float | None = None, drop_path: float = 0.0,
                 norm: dict[str, Any] | None = None):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.norm = make_norm(channels, norm)
        self.query = nn.Conv2d(channels, num_heads * head_dim, 1, bias=False)
        self.key = self._projection(channels, head_dim, kv_stride, norm)
        self.value = self._projection(channels, head_dim, kv_stride, norm)
        self.output = nn.Conv2d(num_heads * head_dim, channels, 1, bias=False)
        self.scale = _scale(channels, layer_scale)
        self.drop_path = DropPath(drop_path)

    @staticmethod
    def _projection(channels: int, head_dim: int, stride: int,
                    norm: dict[str, Any] | None) -> nn.Sequential:
        parts = nn.Sequential()
        if stride > 1:
            parts.add_module('down', ConvNormAct(channels, channels, 3, stride, groups=channels,
                                                 norm=norm, with_act=False))
        parts.add_module('proj', nn.Conv2d(channels, head_dim, 1, bias=False))
        return parts

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one of the same shape."""
        y = self.norm(x)
        query = self.query(y).unflatten(1, (self.num_heads, self.head_dim)).flatten(3).mT
        key, value = (part(y).flatten(2).mT[:, None].expand(-1, self.num_heads, -1, -1)
                      for part in (self.key, self.value))
        out = attend(query, key, value)  # (B, M, H W, D)
        y = self.output(out.mT.flatten(1, 2).unflatten(2, x.shape[2:]))
        if self.scale is not None:
            y = y * self.scale[:, None, None]
        return x + self.drop_path(y)


def _scale(channels: int, value: float | None) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(torch.full((channels,), value))


def _striding(in_channels: int, out_channels: int, kernel: int, stride: int, pool: str | None,
              **arguments: Any) -> ConvNormAct:
    """A convolution that steps, or one that does not with a pooling behind it that does."""
    is_pooled = pool is not None and stride > 1
    conv = ConvNormAct(in_channels, out_channels, kernel, 1 if is_pooled else stride, **arguments)
    if is_pooled:
        conv.add_module('pool', _pooling(pool, stride))
    return conv


def _pooling(pool: str | None, stride: int) -> nn.Module:
    return BlurPool2d(stride) if pool == 'blur' else nn.AvgPool2d(stride)


_KEYS = (
    (r'\.dw_start\.', '.start.'),
    (r'\.pw_exp\.', '.expand.'),
    (r'\.dw_mid\.', '.middle.'),
    (r'\.pw_proj\.', '.project.'),
    (r'\.bn\.', '.norm.'),
    (r'\.layer_scale\.gamma$', '.scale'),
    (r'\.attn\.(key|value)\.down_conv\.', r'.\1.down.conv.'),
    (r'\.attn\.(key|value)\.norm\.', r'.\1.down.norm.'),
    (r'\.attn\.(key|value)\.proj\.', r'.\1.proj.'),
    (r'\.attn\.(query|output)\.proj\.', r'.\1.'),
    (r'^blocks\.4\.0\.conv\.', 'last.conv.'),
    (r'^blocks\.4\.0\.bn1\.', 'last.norm.'),
    (r'^conv_stem\.', 'stem.conv.'),
    (r'^bn1\.', 'stem.norm.'),
    (r'^conv_head\.', '../head.hidden.0.'),
    (r'^norm_head\.', '../head.norms.0.'),
    (r'^classifier\.', '../head.fc.'),
)
_SMALL_KEYS = ((r'\.bn1\.', '.norm.'),)
_FUSED_KEYS = (
    (r'^blocks\.0\.0\.conv_exp\.', 'blocks.0.0.expand.conv.'),
    (r'^blocks\.0\.0\.bn1\.', 'blocks.0.0.expand.norm.'),
    (r'^blocks\.0\.0\.conv_pwl\.', 'blocks.0.0.project.conv.'),
    (r'^blocks\.0\.0\.bn2\.', 'blocks.0.0.project.norm.'),
)


def _timm_map(keys: Sequence[tuple[str, str]], first: str) -> KeyMap:
    return KeyMap(
        'timm', (*_KEYS, *keys, (r'^blocks\.', 'stages.')),
        transforms=[(r'head\.hidden\.0\.weight$', lambda tensor: tensor.flatten(1))],
        signature=(rf'^blocks\.0\.0\.{first}\.', r'^blocks\.2\.0\.pw_exp\.'))


@MODELS.register_module()
class MobileNetV4(nn.Module):
    """MobileNetV4 of any published size.

    Args:
        size: ``'conv_small'``, ``'conv_medium'``, ``'conv_large'``, ``'hybrid_medium'`` or
            ``'hybrid_large'``.
        width: factor of all channel numbers (but the stem's below 1), which are then rounded to
            multiples of 8.
        num_blocks: how many of the published blocks, from the first on, stages 2 to 5 have; by
            default all.
        pool: what halves maps behind a convolution, in place of its stride, except in the stem:
            ``'mean'`` of each window (published as ``aa``) or ``'blur'`` (``BlurPool2d``).
        in_channels: channels of the input.
        with_last: end stage 5 with the 1x1 convolution; detectors want it left out.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        norm: see ``make_norm``.
        act: see ``make_act``; by default ReLU, and GELU in ``'hybrid_large'``.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (_timm_map(_SMALL_KEYS, 'conv'), _timm_map(_FUSED_KEYS, 'conv_exp'))

    def __init__(
        self,
        size: str = 'conv_medium',
        width: float = 1.0,
        num_blocks: Sequence[int] | None = None,
        pool: Literal['mean', 'blur'] | None = None,
        in_channels: int = 3,
        with_last: bool = True,
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'MobileNetV4 has sizes {list(_SIZES)}, not {size!r}')
        if pool not in (None, 'mean', 'blur'):
            raise ValueError(f"pool is 'mean', 'blur' or None, not {pool!r}")
        table = _SIZES[size]
        self.out_stages = check_out_stages(out_stages, first=1, last=5)
        num_blocks = tuple(num_blocks or (len(rows) for rows in table.stages))
        if len(num_blocks) != 4 or min(num_blocks) < 1:
            raise ValueError('MobileNetV4 needs num_blocks of four stages, each at least 1, not '
                             f'{num_blocks}')
        stages = [rows[:num] for rows, num in zip(table.stages, num_blocks)]
        style: dict[str, Any] = {'norm': norm, 'act': act or {'type': table.act}}
        channels = round_channels(table.stem_channels * max(width, 1.0))
        self.stem = ConvNormAct(in_channels, channels, 3, 2, **style)
        stage_channels = [channels]
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        for base, rows in zip(table.channels, stages[: self.out_stages[-1] - 1]):
            blocks = nn.Sequential()
            for j, row in enumerate(rows):
                stride, prob = 2 if j == 0 else 1, next(probs)
                out = round_channels(width * (row.channels if isinstance(row, _Conv) else base))
                if isinstance(row, _Conv):
                    block: nn.Module = _striding(channels, out, row.kernel, stride, pool, **style)
                elif isinstance(row, _MQA):
                    block = MobileAttention(channels, *row, table.layer_scale, prob, norm)
                elif isinstance(row, _Fused):
                    hidden = round_channels(channels * row.ratio)
                    block = FusedMBConv(channels, out, hidden, stride=1 if pool else stride,
                                        drop_path=prob, **style)
                    if pool:
                        block.expand.add_module('pool', _pooling(pool, stride))
                else:
                    hidden = round_channels(channels * row.ratio)
                    block = UniversalInvertedBottleneck(
                        channels, out, hidden, row.start, row.middle, stride, pool,
                        table.layer_scale, prob, **style)
                blocks.append(block)
                channels = out
            self.stages.append(blocks)
            stage_channels.append(channels)
        self.last: nn.Module = nn.Identity()
        if with_last and self.out_stages[-1] == 5:
            stage_channels[4] = round_channels(width * 960)
            self.last = ConvNormAct(channels, stage_channels[4], 1, **style)
        self.out_channels = tuple(stage_channels[s - 1] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return {name for name, _ in self.named_parameters() if name.endswith('.scale')}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        maps = [self.stem(x)]
        for blocks in self.stages:
            maps.append(blocks(maps[-1]))
        if len(maps) == 5:
            maps[4] = self.last(maps[4])
        return tuple(maps[stage - 1] for stage in self.out_stages)
