"""DenseNet: each layer reads the maps of all layers before it.

Huang et al., https://arxiv.org/abs/1608.06993

Dense stages 2 (stride 4) to 5 (stride 32); between them a transition halves channels and
resolution. The map of a stage is what its last layer leaves, before the transition; that of
stage 5 is normalised and activated, as the classifier wants it.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct
from openlab.layers.init import init_conv_net
from openlab.layers.norm import make_norm
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[int, tuple[tuple[int, ...], int, int]] = {
    # layers of each stage, growth, channels of the stem
    121: ((6, 12, 24, 16), 32, 64),
    161: ((6, 12, 36, 24), 48, 96),
    169: ((6, 12, 32, 32), 32, 64),
    201: ((6, 12, 48, 32), 32, 64),
}


class DenseLayer(nn.Module):
    """Add ``growth`` channels, computed through a bottleneck, to the map.

    Args:
        in_channels: channels of the input map.
        growth: channels that are added.
        bottleneck: channels inside over ``growth``.
        dropout: probability to drop a new value in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, growth: int, bottleneck: int = 4, dropout: float = 0.0,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        self.norm1 = make_norm(in_channels, norm)
        self.conv1 = nn.Conv2d(in_channels, bottleneck * growth, 1, bias=False)
        self.norm2 = make_norm(bottleneck * growth, norm)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)
        self.act = make_act(act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + growth, H, W)."""
        y = self.conv1(self.act(self.norm1(x)))
        y = self.conv2(self.act(self.norm2(y)))
        return torch.cat([x, self.dropout(y)], dim=1)


class Transition(nn.Module):
    """Halve the resolution, and the channels by a 1x1 convolution.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        self.norm = make_norm(in_channels, norm)
        self.act = make_act(act)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / 2, W / 2)."""
        return self.pool(self.conv(self.act(self.norm(x))))


_TORCHVISION_KEYS = (
    (r'^features\.conv0\.', 'stem.0.conv.'),
    (r'^features\.norm0\.', 'stem.0.norm.'),
    *((rf'^features\.denseblock{i + 1}\.denselayer{j}\.', f'stages.{i}.{j - 1}.')
      for i in range(4) for j in range(1, 49)),
    *((rf'^features\.transition{i + 1}\.', f'transitions.{i}.') for i in range(3)),
    (r'^features\.norm5\.', 'norm.'),
    (r'^classifier\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'^stem\.0\.', 'stem.0.conv.'),
    (r'^stem\.1\.', 'stem.0.norm.'),
    (r'^(stages\.\d)\.block\.', r'\1.'),
    (r'^transitions\.3\.0\.', 'norm.'),
)


@MODELS.register_module()
class DenseNet(nn.Module):
    """DenseNet of 121 to 201 layers.

    Args:
        depth: 121, 161, 169 or 201: sets what is left out of the next three.
        num_layers: layers of each stage.
        growth: channels that a layer adds.
        stem_channels: channels of the stem.
        in_channels: channels of the input.
        bottleneck: channels inside a layer over ``growth``.
        dropout: probability to drop a new value of a layer in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _TORCHVISION_KEYS, signature=(r'^features\.denseblock1\.',)),
        KeyMap('timm', _TORCHVISION_KEYS, signature=(r'^features\.denseblock1\.',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^stages\.0\.block\.0\.norm1\.',)),
    )

    def __init__(
        self,
        depth: int = 121,
        num_layers: Sequence[int] | None = None,
        growth: int | None = None,
        stem_channels: int | None = None,
        in_channels: int = 3,
        bottleneck: int = 4,
        dropout: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if depth not in _SIZES:
            raise ValueError(f'DenseNet has depths {list(_SIZES)}, not {depth}; for another one '
                             'give num_layers, growth and stem_channels')
        num_layers = tuple(num_layers or _SIZES[depth][0])
        growth = growth or _SIZES[depth][1]
        channels = stem_channels or _SIZES[depth][2]
        self.out_stages = check_out_stages(out_stages, first=2, last=len(num_layers) + 1)
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, channels, 7, 2, norm=norm, act=act),
            nn.MaxPool2d(3, stride=2, padding=1))
        self.stages, self.transitions = nn.ModuleList(), nn.ModuleList()
        stage_channels = []
        num_stages = self.out_stages[-1] - 1
        for i, num in enumerate(num_layers[:num_stages]):
            self.stages.append(nn.Sequential(*(
                DenseLayer(channels + j * growth, growth, bottleneck, dropout, norm, act)
                for j in range(num))))
            channels += num * growth
            stage_channels.append(channels)
            if i < num_stages - 1:
                self.transitions.append(Transition(channels, channels // 2, norm, act))
                channels //= 2
        self.has_end = num_stages == len(num_layers)
        if self.has_end:
            self.norm, self.act = make_norm(channels, norm), make_act(act)
        self.out_channels = tuple(stage_channels[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for i, layers in enumerate(self.stages):
            x = layers(x)
            if i == len(self.stages) - 1 and self.has_end:
                x = self.act(self.norm(x))
            if i + 2 in self.out_stages:
                outs.append(x)
            if i < len(self.transitions):
                x = self.transitions[i](x)
        return tuple(outs)
