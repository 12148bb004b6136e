"""VGG: 3x3 convolutions, and a pooling after every few of them.

Simonyan and Zisserman, https://arxiv.org/abs/1409.1556

Stage k ends with the pooling to stride 2^k. The paper's three linear layers are the head's
(``MLPHead(hidden_channels=(4096, 4096), grid=7, dropout=0.5)``).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.init import init_conv_net
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # convolutions of each stage
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)


def _flat_indices(depth: int, layers_per_conv: int) -> list[tuple[int, int, int]]:
    """(index in a flat list of layers, stage, index in the stage) of each convolution."""
    places, flat = [], 0
    for stage, num in enumerate(_SIZES[depth]):
        for i in range(num):
            places.append((flat, stage, i))
            flat += layers_per_conv
        flat += 1  # the pooling
    return places


def _head_keys(prefix: str) -> list[tuple[str, str]]:
    return [(rf'^classifier\.{i}\.', f'{prefix}{name}.')
            for i, name in ((0, 'hidden.0'), (3, 'hidden.1'), (6, 'fc'))]


_TIMM_HEAD_KEYS = (
    (r'^pre_logits\.fc1\.', '../head.hidden.0.'),
    (r'^pre_logits\.fc2\.', '../head.hidden.1.'),
    (r'^head\.fc\.', '../head.fc.'),
)


def _torchvision_map(depth: int, with_norm: bool, source: str = 'torchvision') -> KeyMap:
    places = _flat_indices(depth, 3 if with_norm else 2)
    renames = [(rf'^features\.{flat}\.', f'stages.{stage}.{i}.conv.')
               for flat, stage, i in places]
    if with_norm:
        renames += [(rf'^features\.{flat + 1}\.', f'stages.{stage}.{i}.norm.')
                    for flat, stage, i in places]
    signature = [pattern + 'weight$' for pattern, _ in renames]
    if source == 'torchvision':
        return KeyMap(source, [*renames, *_head_keys('../head.')], signature=signature)
    # timm writes the linear layers as convolutions over the whole last map.
    return KeyMap(source, [*renames, *_TIMM_HEAD_KEYS],
                  transforms=[(r'head\.hidden\.\d\.weight$', lambda kernel: kernel.flatten(1))],
                  signature=[*signature, r'^pre_logits\.fc1\.'])


def _openmmlab_map(depth: int) -> KeyMap:
    renames = [(rf'^features\.{flat}\.', f'stages.{stage}.{i}.')
               for flat, stage, i in _flat_indices(depth, 1)]
    signature = [pattern + r'conv\.weight$' for pattern, _ in renames]
    return KeyMap('openmmlab', [*renames, (r'\.bn\.', '.norm.'), *_head_keys('../head.')],
                  signature=signature)


@MODELS.register_module()
class VGG(nn.Module):
    """VGG of 11 to 19 layers, without its linear ones.

    Args:
        depth: 11, 13, 16 or 19: sets ``num_convs`` where it is left out.
        num_convs: convolutions of each of the five stages.
        in_channels: channels of the input.
        width: factor of all channel numbers.
        with_norm: normalise after each convolution, as the paper did not yet.
        norm: see ``make_norm``.
        act: see ``make_act``.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        *(_torchvision_map(depth, norm, 'timm') for depth in _SIZES for norm in (False, True)),
        *(_torchvision_map(depth, norm) for depth in _SIZES for norm in (False, True)),
        *(_openmmlab_map(depth) for depth in _SIZES),
    )

    def __init__(
        self,
        depth: Literal[11, 13, 16, 19] = 16,
        num_convs: Sequence[int] | None = None,
        in_channels: int = 3,
        width: float = 1.0,
        with_norm: bool = True,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if depth not in _SIZES:
            raise ValueError(f'VGG has depths {list(_SIZES)}, not {depth}; for another one give '
                             'num_convs')
        num_convs = tuple(num_convs or _SIZES[depth])
        self.out_stages = check_out_stages(out_stages, first=1, last=len(num_convs))
        self.stages = nn.ModuleList()
        channels = in_channels
        for num, base in list(zip(num_convs, _CHANNELS))[: self.out_stages[-1]]:
            stage = nn.Sequential()
            for _ in range(num):
                stage.append(ConvNormAct(channels, int(base * width), bias=True, norm=norm,
                                         act=act, with_norm=with_norm))
                channels = int(base * width)
            self.stages.append(stage.append(nn.MaxPool2d(2)))
        self.out_channels = tuple(int(_CHANNELS[s - 1] * width) for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        outs = []
        for stage, layers in enumerate(self.stages, start=1):
            x = layers(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
