"""MobileNetV2: inverted residual blocks, narrow between blocks and wide inside them.

Sandler et al., https://arxiv.org/abs/1801.04381

Stages are counted by their stride: stage k ends at stride 2^k, so that the 17 blocks of table 2
fall into stages 1 to 5; the last stage ends with the 1x1 convolution to 1280 channels.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

# Table 2: expansion, channels and number of blocks of each group, and the stage it lies in.
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 3), (6, 64, 4, 4), (6, 96, 3, 4),
           (6, 160, 3, 5), (6, 320, 1, 5))
_SIZES = (1, 2, 3, 7, 4)  # blocks of each stage


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without activation.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        expansion: channels inside over channels of the input; 1 leaves the first step out.
        stride: step of the 3x3 convolution.
        dilation: dilation of the 3x3 convolution.
        drop_path: probability to leave the block out in training.
        padding: of the 3x3 convolution, see ``ConvNormAct``.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int = 6, stride: int = 1,
                 dilation: int = 1, drop_path: float = 0.0,
                 padding: Literal['same'] | None = None, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        inner = in_channels * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = ConvNormAct(in_channels, inner, 1, norm=norm, act=act)
        self.depthwise = ConvNormAct(inner, inner, 3, stride, padding, dilation, inner,
                                     norm=norm, act=act)
        self.project = ConvNormAct(inner, out_channels, 1, norm=norm, with_act=False)
        self.drop_path = DropPath(drop_path)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.project(self.depthwise(self.expand(x)))
        return self.drop_path(y).add_(x) if self.is_residual else y


def _torchvision_keys() -> list[tuple[str, str]]:
    """Renames of torchvision's flat list of layers: stem, 17 blocks, last convolution."""
    places = [(stage, i) for stage, size in enumerate(_SIZES) for i in range(size)]
    return [
        (r'^features\.0\.0\.', 'stem.conv.'),
        (r'^features\.0\.1\.', 'stem.norm.'),
        (r'^features\.18\.0\.', 'last.conv.'),
        (r'^features\.18\.1\.', 'last.norm.'),
        (r'^features\.1\.conv\.0\.0\.', 'stages.0.0.depthwise.conv.'),
        (r'^features\.1\.conv\.0\.1\.', 'stages.0.0.depthwise.norm.'),
        (r'^features\.1\.conv\.1\.', 'stages.0.0.project.conv.'),
        (r'^features\.1\.conv\.2\.', 'stages.0.0.project.norm.'),
        (r'^(features\.\d+)\.conv\.0\.0\.', r'\1.expand.conv.'),
        (r'^(features\.\d+)\.conv\.0\.1\.', r'\1.expand.norm.'),
        (r'^(features\.\d+)\.conv\.1\.0\.', r'\1.depthwise.conv.'),
        (r'^(features\.\d+)\.conv\.1\.1\.', r'\1.depthwise.norm.'),
        (r'^(features\.\d+)\.conv\.2\.', r'\1.project.conv.'),
        (r'^(features\.\d+)\.conv\.3\.', r'\1.project.norm.'),
        *((rf'^features\.{k}\.', f'stages.{stage}.{i}.')
          for k, (stage, i) in enumerate(places, start=1)),
        (r'^classifier\.1\.', '../head.fc.'),
    ]


_TIMM_KEYS = (
    (r'^conv_stem\.', 'stem.conv.'),
    (r'^bn1\.', 'stem.norm.'),
    (r'^conv_head\.', 'last.conv.'),
    (r'^bn2\.', 'last.norm.'),
    (r'^classifier\.', '../head.fc.'),
    (r'^blocks\.0\.0\.conv_dw\.', 'stages.0.0.depthwise.conv.'),
    (r'^blocks\.0\.0\.bn1\.', 'stages.0.0.depthwise.norm.'),
    (r'^blocks\.0\.0\.conv_pw\.', 'stages.0.0.project.conv.'),
    (r'^blocks\.0\.0\.bn2\.', 'stages.0.0.project.norm.'),
    (r'\.conv_pw\.', '.expand.conv.'),
    (r'\.bn1\.', '.expand.norm.'),
    (r'\.conv_dw\.', '.depthwise.conv.'),
    (r'\.bn2\.', '.depthwise.norm.'),
    (r'\.conv_pwl\.', '.project.conv.'),
    (r'\.bn3\.', '.project.norm.'),
    (r'^blocks\.([123])\.', r'stages.\1.'),
    *((rf'^blocks\.4\.{i}\.', f'stages.3.{4 + i}.') for i in range(3)),
    (r'^blocks\.5\.', 'stages.4.'),
    (r'^blocks\.6\.0\.', 'stages.4.3.'),
)
_OPENMMLAB_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'^conv1\.', 'stem.'),
    (r'^conv2\.', 'last.'),
    (r'^layer1\.0\.conv\.0\.', 'stages.0.0.depthwise.'),
    (r'^layer1\.0\.conv\.1\.', 'stages.0.0.project.'),
    (r'\.(\d)\.conv\.0\.', r'.\1.expand.'),
    (r'\.(\d)\.conv\.1\.', r'.\1.depthwise.'),
    (r'\.(\d)\.conv\.2\.', r'.\1.project.'),
    *((rf'^layer{i + 1}\.', f'stages.{i}.') for i in (1, 2, 3)),
    *((rf'^layer5\.{i}\.', f'stages.3.{4 + i}.') for i in range(3)),
    (r'^layer6\.', 'stages.4.'),
    (r'^layer7\.0\.', 'stages.4.3.'),
)
_PARTS = {'expand_1x1': 'expand', 'conv_3x3': 'depthwise', 'reduce_1x1': 'project'}
_KINDS = {'convolution': 'conv', 'normalization': 'norm'}
_TRANSFORMERS_KEYS = (
    (r'^mobilenet_v2\.', ''),
    *((rf'\.{theirs}\.', f'.{ours}.') for theirs, ours in (_PARTS | _KINDS).items()),
    (r'^conv_stem\.first_conv\.', 'stem.'),
    (r'^conv_stem\.', 'stages.0.0.'),
    (r'^conv_1x1\.', 'last.'),
    *((rf'^layer\.{k}\.', f'stages.{stage}.{i}.') for k, (stage, i) in enumerate(
        (stage, i) for stage, size in enumerate(_SIZES[1:], start=1) for i in range(size))),
    (r'^classifier\.', '../head.fc.'),
)


@MODELS.register_module()
class MobileNetV2(nn.Module):
    """MobileNetV2.

    Args:
        width: factor of all channel numbers, which are then rounded to multiples of 8.
        in_channels: channels of the input.
        stem_stride: 1 halves all strides, for images of about 32 px.
        last_channels: channels of the 1x1 convolution that ends stage 5; 0 leaves it out, as
            detectors want. It does not shrink with ``width``.
        output_stride: 8 or 16 keep the resolution from there on and dilate instead.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        padding: ``'same'`` is TensorFlow's rule, see ``Conv2dSame``; weights that were trained
            there need it.
        norm: see ``make_norm``.
        act: see ``make_act``; by default ReLU6.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _torchvision_keys(), signature=(r'^features\.18\.0\.',)),
        KeyMap('timm', _TIMM_KEYS, signature=(r'^conv_stem\.', r'^blocks\.6\.0\.conv_pwl')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^layer7\.0\.conv\.2\.conv\.',)),
        KeyMap('transformers', _TRANSFORMERS_KEYS, signature=(r'(^|\.)conv_stem\.reduce_1x1\.',)),
    )

    def __init__(
        self,
        width: float = 1.0,
        in_channels: int = 3,
        stem_stride: Literal[1, 2] = 2,
        last_channels: int = 1280,
        output_stride: Literal[8, 16, 32] = 32,
        drop_path: float = 0.0,
        padding: Literal['symmetric', 'same'] = 'symmetric',
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if padding not in ('symmetric', 'same'):
            raise ValueError(f"padding is 'symmetric' or 'same', not {padding!r}")
        pad: Literal['same'] | None = 'same' if padding == 'same' else None
        self.out_stages = check_out_stages(out_stages, first=1, last=5)
        act = act or {'type': nn.ReLU6}
        style: dict[str, Any] = {'norm': norm, 'act': act}
        channels = round_channels(32 * width)
        self.stem = ConvNormAct(in_channels, channels, 3, stem_stride, pad, **style)
        probs = iter(drop_path_probs(drop_path, sum(_SIZES)))
        stages = [nn.Sequential() for _ in range(self.out_stages[-1])]
        stage_channels: dict[int, int] = {}
        stage_strides: dict[int, int] = {}
        total_stride, dilation = int(stem_stride), 1
        for i, (expansion, base, num, stage) in enumerate(_GROUPS):
            if stage > self.out_stages[-1]:
                break
            stride = 2 if i in (1, 2, 3, 5) else 1
            first_dilation = dilation
            if total_stride * stride > output_stride:
                dilation, stride = dilation * stride, 1
            total_stride *= stride
            for j in range(num):
                out = round_channels(base * width)
                stages[stage - 1].append(InvertedResidual(
                    channels, out, expansion, stride=stride if j == 0 else 1,
                    dilation=first_dilation if j == 0 else dilation, drop_path=next(probs),
                    padding=pad, **style))
                channels = out
            stage_channels[stage], stage_strides[stage] = channels, total_stride
        self.stages = nn.ModuleList(stages)
        self.last: nn.Module = nn.Identity()
        if last_channels and self.out_stages[-1] == 5:
            last_channels = max(last_channels, round_channels(last_channels * width))
            self.last = ConvNormAct(channels, last_channels, 1, **style)
            stage_channels[5] = last_channels
        self.out_channels = tuple(stage_channels[s] for s in self.out_stages)
        self.strides = tuple(stage_strides[s] for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=1):
            x = blocks(x)
            if stage == 5:
                x = self.last(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, but never less than nine tenths of ``channels``."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
