"""RegNet: residual stages whose widths follow one straight line.

Radosavovic et al., Designing Network Design Spaces, https://arxiv.org/abs/2003.13678

Block j of the network should be ``base_channels + slope * j`` wide. Widths are rounded to powers
of ``step`` (equation 4 of the paper), and blocks of one width are a stage. X and Y differ in
squeeze and excitation, which Y has. Stages are counted by their stride: the stem is stage 1, the
last stage is 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.backbones.resnet import make_shortcut
from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net, zero_scale
from openlab.layers.se import SqueezeExcite
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[int, int, float, float, int]] = {
    # depth, base_channels, slope, step, group_width
    'x_200mf': (13, 24, 36.44, 2.49, 8),
    'x_400mf': (22, 24, 24.48, 2.54, 16),
    'x_600mf': (16, 48, 36.97, 2.24, 24),
    'x_800mf': (16, 56, 35.73, 2.28, 16),
    'x_1.6gf': (18, 80, 34.01, 2.25, 24),
    'x_3.2gf': (25, 88, 26.31, 2.25, 48),
    'x_4gf': (23, 96, 38.65, 2.43, 40),
    'x_6.4gf': (17, 184, 60.83, 2.07, 56),
    'x_8gf': (23, 80, 49.56, 2.88, 120),
    'x_12gf': (19, 168, 73.36, 2.37, 112),
    'x_16gf': (22, 216, 55.59, 2.1, 128),
    'x_32gf': (23, 320, 69.86, 2.0, 168),
    'y_200mf': (13, 24, 36.44, 2.49, 8),
    'y_400mf': (16, 48, 27.89, 2.09, 8),
    'y_600mf': (15, 48, 32.54, 2.32, 16),
    'y_800mf': (14, 56, 38.84, 2.4, 16),
    'y_1.6gf': (27, 48, 20.71, 2.65, 24),
    'y_3.2gf': (21, 80, 42.63, 2.66, 24),
    'y_4gf': (22, 96, 31.41, 2.24, 64),
    'y_6.4gf': (25, 112, 33.22, 2.27, 72),
    'y_8gf': (17, 192, 76.82, 2.19, 56),
    'y_12gf': (19, 168, 73.36, 2.37, 112),
    'y_16gf': (18, 200, 106.23, 2.48, 112),
    'y_32gf': (20, 232, 115.89, 2.53, 232),
    'y_64gf': (20, 352, 147.48, 2.4, 328),
    'y_128gf': (27, 456, 160.83, 2.52, 264),
    'y_256gf': (27, 640, 230.83, 2.53, 373),
}


def stage_sizes(depth: int, base_channels: int, slope: float, step: float, group_width: int,
                round_half_up: bool = False) -> list[tuple[int, int]]:
    """(channels, number of blocks) of each stage, by equations 2 to 4 of the paper."""
    widths = []
    for j in range(depth):
        power = round(math.log((base_channels + slope * j) / base_channels, step))
        widths.append(int(round(base_channels * step**power / 8) * 8))
    stages = sorted(Counter(widths).items())
    # Groups must divide the channels.
    whole = (lambda x: int(x + 0.5)) if round_half_up else round
    return [(whole(c / min(group_width, c)) * min(group_width, c), n) for c, n in stages]


class RegNetBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution of one width, around which the input is added.

    Args:
        in_channels: channels of the input map.
        channels: channels of the output map, and inside.
        stride: step of the 3x3 convolution.
        group_width: channels of a group.
        with_se: squeeze and excitation, to a quarter of the input's channels.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int,
                 with_se: bool, drop_path: float = 0.0, norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.conv1 = ConvNormAct(in_channels, channels, 1, **style)
        self.conv2 = ConvNormAct(channels, channels, 3, stride,
                                 groups=channels // min(group_width, channels), **style)
        self.se: nn.Module = nn.Identity()
        if with_se:
            self.se = SqueezeExcite(channels, round(in_channels / 4))
        self.conv3 = ConvNormAct(channels, channels, 1, with_act=False, **style)
        self.shortcut = make_shortcut(in_channels, channels, stride, avg_down=False, norm=norm)
        self.drop_path = DropPath(drop_path)
        self.act = make_act(act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        branch = self.conv3(self.se(self.conv2(self.conv1(x))))
        return self.act(self.drop_path(branch).add_(self.shortcut(x)))


def _torchvision_keys() -> list[tuple[str, str]]:
    parts = {'a': 'conv1', 'b': 'conv2', 'c': 'conv3'}
    return [
        *((rf'\.f\.{theirs}\.{i}\.', f'.{ours}.{kind}.') for theirs, ours in parts.items()
          for i, kind in enumerate(('conv', 'norm'))),
        (r'\.f\.se\.fc1\.', '.se.reduce.'),
        (r'\.f\.se\.fc2\.', '.se.expand.'),
        (r'\.proj\.0\.', '.shortcut.conv.'),
        (r'\.proj\.1\.', '.shortcut.norm.'),
        (r'^stem\.0\.', 'stem.conv.'),
        (r'^stem\.1\.', 'stem.norm.'),
        *((rf'^trunk_output\.block{i + 1}\.block{i + 1}-', f'stages.{i}.') for i in range(4)),
        (r'^fc\.', '../head.fc.'),
    ]


_TIMM_KEYS = (
    (r'\.bn\.', '.norm.'),
    (r'\.se\.fc1\.', '.se.reduce.'),
    (r'\.se\.fc2\.', '.se.expand.'),
    (r'\.downsample\.', '.shortcut.'),
    *((rf'^s{i + 1}\.b{j}\.', f'stages.{i}.{j - 1}.') for i in range(4) for j in range(1, 40)),
    (r'^head\.fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'\.conv(\d)\.', r'.conv\1.conv.'),
    (r'\.bn(\d)\.', r'.conv\1.norm.'),
    (r'\.downsample\.0\.', '.shortcut.conv.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
    (r'^conv1\.', 'stem.conv.'),
    (r'^bn1\.', 'stem.norm.'),
    *((rf'^layer{i + 1}\.', f'stages.{i}.') for i in range(4)),
)


def _to_rgb(kernel: Tensor) -> Tensor:
    """The kernel that sees red first where the given one, of three channels, sees blue first."""
    return kernel.flip(1) if kernel.shape[1] == 3 else kernel

# The third layer of a block is the squeeze and excitation where there is one.
_TRANSFORMERS_KEYS = (
    (r'^regnet\.', ''),
    (r'^embedder\.embedder\.', 'stem.'),
    (r'^encoder\.stages\.(\d+)\.layers\.', r'stages.\1.'),
    (r'\.layer\.2\.attention\.0\.', '.se.reduce.'),
    (r'\.layer\.2\.attention\.2\.', '.se.expand.'),
    (r'\.layer\.0\.', '.conv1.'),
    (r'\.layer\.1\.', '.conv2.'),
    (r'\.layer\.[23]\.', '.conv3.'),
    (r'\.convolution\.', '.conv.'),
    (r'\.normalization\.', '.norm.'),
    (r'^classifier\.1\.', '../head.fc.'),
)


@MODELS.register_module()
class RegNet(nn.Module):
    """RegNet X and Y of any published size.

    Args:
        size: such as ``'x_400mf'`` or ``'y_1.6gf'``: sets what is left out of the following.
        depth: number of blocks.
        base_channels: width of the first block.
        slope: by how much each further block should be wider.
        step: ratio of the widths of neighbouring stages.
        group_width: channels of a group of the 3x3 convolutions.
        with_se: squeeze and excitation; by default in the sizes Y.
        round_half_up: how many groups two and a half are, say: three, as torchvision has it for its
            weights, or two, as the paper's code. It concerns X-400MF, Y-800MF and Y-8GF.
        in_channels: channels of the input.
        stem_channels: channels of the stem.
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
        KeyMap('torchvision', _torchvision_keys(),
               signature=(r'^trunk_output\.block1\.block1-0\.f\.a\.0\.',)),
        KeyMap('timm', _TIMM_KEYS, signature=(r'^s1\.b1\.conv1\.conv\.', r'^s4\.b1\.')),
        # All of them come from a project that reads images as BGR.
        KeyMap('openmmlab', _OPENMMLAB_KEYS, transforms=((r'^stem\.conv\.weight$', _to_rgb),),
               signature=(r'^layer1\.0\.conv3\.',)),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               signature=(r'embedder\.embedder\.convolution\.', r'\.0\.layer\.2\.')),
    )

    def __init__(
        self,
        size: str = 'y_1.6gf',
        depth: int | None = None,
        base_channels: int | None = None,
        slope: float | None = None,
        step: float | None = None,
        group_width: int | None = None,
        with_se: bool | None = None,
        round_half_up: bool = False,
        in_channels: int = 3,
        stem_channels: int = 32,
        drop_path: float = 0.0,
        zero_init_last: bool = True,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'RegNet has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'depth, base_channels, slope, step and group_width')
        default = _SIZES[size]
        group_width = group_width or default[4]
        sizes = stage_sizes(depth or default[0], base_channels or default[1], slope or default[2],
                            step or default[3], group_width, round_half_up)
        with_se = size.startswith('y') if with_se is None else with_se
        self.out_stages = check_out_stages(out_stages, first=2, last=len(sizes) + 1)
        sizes = sizes[: self.out_stages[-1] - 1]
        self.stem = ConvNormAct(in_channels, stem_channels, 3, 2, norm=norm, act=act)
        probs = iter(drop_path_probs(drop_path, sum(num for _, num in sizes)))
        self.stages = nn.ModuleList()
        channels = stem_channels
        for width, num in sizes:
            self.stages.append(nn.Sequential(*(
                RegNetBlock(channels if i == 0 else width, width, 2 if i == 0 else 1, group_width,
                            with_se, next(probs), norm, act) for i in range(num))))
            channels = width
        self.out_channels = tuple(sizes[s - 2][0] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)
        if zero_init_last:
            for part in self.modules():
                if isinstance(part, RegNetBlock):
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
