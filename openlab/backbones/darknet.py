"""DarkNet-53, the backbone of YOLOv3.

Redmon and Farhadi, YOLOv3, https://arxiv.org/abs/1804.02767, table 1

Each stage halves the map by a convolution, then adds blocks of a 1x1 convolution to half the
channels and a 3x3 convolution back. Stages are counted by their stride: stage k ends at stride
2^k, and the last is 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_DEPTHS = {21: (1, 1, 1, 2, 2), 53: (1, 2, 8, 8, 4)}


class DarkBlock(nn.Module):
    """1x1 and 3x3 convolution around which the input is added, with no activation behind.

    Args:
        channels: channels of the input and of the output map.
        hidden: channels between the convolutions.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0,
                 norm: dict[str, Any] | None = None, act: dict[str, Any] | None = None):
        super().__init__()
        self.conv1 = ConvNormAct(channels, hidden, 1, norm=norm, act=act)
        self.conv2 = ConvNormAct(hidden, channels, 3, norm=norm, act=act)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one of the same shape."""
        return x + self.drop_path(self.conv2(self.conv1(x)))


def leaky_relu() -> dict[str, Any]:
    """The activation of DarkNet; PyTorch's own default is a slope of 0.01."""
    return {'type': nn.LeakyReLU, 'negative_slope': 0.1}


_TIMM_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'\.conv_down\.', '.down.'),
    (r'^stem\.conv1\.', 'stem.'),
    (r'^head\.fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'^conv1\.', 'stem.'),
    *((rf'^conv_res_block{i + 1}\.conv\.', f'stages.{i}.down.') for i in range(5)),
    *((rf'^conv_res_block{i + 1}\.res(\d)\.', rf'stages.{i}.blocks.\1.') for i in range(5)),
)


@MODELS.register_module()
class DarkNet(nn.Module):
    """DarkNet of 53 layers, or another number.

    Args:
        depth: 21 or 53: sets ``num_blocks`` where it is left out.
        num_blocks: blocks of each stage.
        in_channels: channels of the input.
        base_channels: channels of the first convolution; each stage doubles them.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        norm: see ``make_norm``.
        act: see ``make_act``; by default LeakyReLU with the slope 0.1 of the original. Weights of
            timm want 0.01.
        out_stages: stages whose maps come out, rising, from 1 (stride 2) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, signature=(r'^stem\.conv1\.', r'\.conv_down\.')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^conv_res_block1\.conv\.conv\.',)),
    )

    def __init__(
        self,
        depth: int = 53,
        num_blocks: Sequence[int] | None = None,
        in_channels: int = 3,
        base_channels: int = 32,
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if depth not in _DEPTHS:
            raise ValueError(f'DarkNet has depths {list(_DEPTHS)}, not {depth}; for another one '
                             'give num_blocks')
        style: dict[str, Any] = {'norm': norm, 'act': act or leaky_relu()}
        num_blocks = tuple(num_blocks or _DEPTHS[depth])
        self.out_stages = check_out_stages(out_stages, first=1, last=len(num_blocks))
        num_blocks = num_blocks[: self.out_stages[-1]]
        self.stem = ConvNormAct(in_channels, base_channels, 3, **style)
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        channels = base_channels
        for num in num_blocks:
            self.stages.append(nn.Sequential(OrderedDict(
                down=ConvNormAct(channels, 2 * channels, 3, 2, **style),
                blocks=nn.Sequential(*(
                    DarkBlock(2 * channels, channels, next(probs), **style)
                    for _ in range(num))))))
            channels *= 2
        self.out_channels = tuple(base_channels * 2**s for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=1):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
