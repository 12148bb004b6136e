"""HRNet: maps of several resolutions side by side, which exchange what they hold.

Wang et al., Deep High-Resolution Representation Learning, https://arxiv.org/abs/1908.07919

The finest map, at stride 4, is kept through the whole network; each stage adds a branch at half
the resolution and twice the channels, and ends each of its modules by adding all branches up at
every resolution. Maps are counted by their stride as in ``ResNet``, from 2 (stride 4) to 5
(stride 32). A classifier merges them with ``HRMerge``.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.resnet import BasicBlock, Bottleneck
from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct
from openlab.layers.init import init_conv_net, zero_scale
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

# channels of the finest map; bottlenecks and their width; modules of the three stages of branches;
# blocks in each branch of a module
_SIZES: dict[str, tuple[int, int, int, tuple[int, int, int], int]] = {
    'w18_small': (16, 1, 32, (1, 1, 1), 2),
    'w18_small_v2': (18, 2, 64, (1, 3, 2), 2),
    **{f'w{width}': (width, 4, 64, (1, 4, 3), 4) for width in (18, 30, 32, 40, 44, 48, 64)},
}


class HRModule(nn.Module):
    """Residual blocks on each map, then every map becomes the sum of all of them.

    Args:
        channels: channels of the maps, finest first; each has half the resolution of the last.
        num_blocks: blocks in each branch.
        outputs: indices of the maps that come out.
        upsample: how a coarser map is enlarged: ``'nearest'`` or ``'bilinear'``.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(self, channels: Sequence[int], num_blocks: int, outputs: Sequence[int],
                 upsample: str = 'nearest', norm: dict[str, Any] | None = None,
                 act: dict[str, Any] | None = None):
        super().__init__()
        self.outputs, self.upsample = tuple(outputs), upsample
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(c, c, norm=norm, act=act) for _ in range(num_blocks)))
            for c in channels)
        self.fuse = nn.ModuleDict({
            str(i): nn.ModuleList(
                self._path(channels, j, i, norm, act) for j in range(len(channels)))
            for i in self.outputs})
        self.act = make_act(act)

    @staticmethod
    def _path(channels: Sequence[int], source: int, target: int, norm: dict[str, Any] | None,
              act: dict[str, Any] | None) -> nn.Module:
        """What brings map ``source`` to the channels (and, if coarser, the size) of ``target``."""
        first, last = channels[source], channels[target]
        if source == target:
            return nn.Identity()
        if source > target:
            return ConvNormAct(first, last, 1, norm=norm, with_act=False)
        num = target - source
        return nn.Sequential(*(
            ConvNormAct(first, last if k == num - 1 else first, 3, 2, norm=norm, act=act,
                        with_act=k < num - 1) for k in range(num)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W), finest first, to those of ``outputs``, of the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        return [self.act(self._sum(maps, i)) for i in self.outputs]

    def _sum(self, maps: Sequence[Tensor], target: int) -> Tensor:
        # From the finest to the coarsest, as the published networks add.
        total: Tensor | None = None
        is_own = False  # whether the sum so far may change in place
        for j, path in enumerate(self.fuse[str(target)].children()):
            part = path(maps[j])
            if j > target:
                part = F.interpolate(
                    part, maps[target].shape[2:], mode=self.upsample,
                    align_corners=False if self.upsample == 'bilinear' else None)
            if total is None:
                total, is_own = part, j != target
            else:
                total = total.add_(part) if is_own else total + part
                is_own = True
        assert total is not None
        return total


_KEYS = (
    # transition1.0 is one convolution, those that begin a branch are lists of one
    (r'^transition1\.0\.0\.', 'transitions.0.0.conv.'),
    (r'^transition1\.0\.1\.', 'transitions.0.0.norm.'),
    *((rf'^transition{i + 1}\.(\d)\.0\.0\.', rf'transitions.{i}.\1.conv.') for i in range(3)),
    *((rf'^transition{i + 1}\.(\d)\.0\.1\.', rf'transitions.{i}.\1.norm.') for i in range(3)),
    *((rf'^stage{i + 2}\.', f'stages.{i}.') for i in range(3)),
    (r'\.fuse_layers\.(\d)\.(\d)\.(\d)\.0\.', r'.fuse.\1.\2.\3.conv.'),
    (r'\.fuse_layers\.(\d)\.(\d)\.(\d)\.1\.', r'.fuse.\1.\2.\3.norm.'),
    (r'\.fuse_layers\.(\d)\.(\d)\.0\.', r'.fuse.\1.\2.conv.'),
    (r'\.fuse_layers\.(\d)\.(\d)\.1\.', r'.fuse.\1.\2.norm.'),
    (r'^layer1\.', 'bottlenecks.'),
    (r'^conv1\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
    (r'^conv2\.', 'stem.1.conv.'),
    (r'^bn2\.', 'stem.1.norm.'),
)
_BLOCK_KEYS = (
    (r'\.conv(\d)\.', r'.conv\1.conv.'),
    (r'\.bn(\d)\.', r'.conv\1.norm.'),
    (r'\.downsample\.0\.', '.shortcut.conv.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
)
_MERGE_KEYS = (
    (r'^incre_modules\.(\d)\.0\.', r'../neck.widen.\1.'),
    (r'^downsamp_modules\.(\d)\.0\.', r'../neck.down.\1.conv.'),
    (r'^downsamp_modules\.(\d)\.1\.', r'../neck.down.\1.norm.'),
    (r'^final_layer\.0\.', '../neck.last.conv.'),
    (r'^final_layer\.1\.', '../neck.last.norm.'),
    (r'^classifier\.', '../head.fc.'),
)
_SIGNATURE = (r'^transition1\.0\.0\.', r'^stage2\.0\.branches\.')


@MODELS.register_module()
class HRNet(nn.Module):
    """High-resolution network of any published size.

    Args:
        size: ``'w18'``, ``'w30'``, ``'w32'``, ``'w40'``, ``'w44'``, ``'w48'``, ``'w64'``,
            ``'w18_small'`` or ``'w18_small_v2'``: sets what is left out of the following.
        base_channels: channels of the finest map; each coarser one has twice as many.
        num_bottlenecks: bottlenecks before the first branching.
        bottleneck_width: a quarter of their channels.
        num_modules: modules in each of the three stages with 2, 3 and 4 branches.
        num_blocks: blocks in each branch of a module.
        in_channels: channels of the input.
        stem_channels: channels of the two convolutions at the beginning.
        upsample: how coarser maps are enlarged: ``'nearest'``, or ``'bilinear'`` as in published
            segmentation networks.
        zero_init_last: start each residual branch at zero.
        norm: see ``make_norm``.
        act: see ``make_act``.
        out_stages: maps that come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', (*_KEYS, *_MERGE_KEYS, *_BLOCK_KEYS), signature=_SIGNATURE),
        KeyMap('openmmlab', (*_KEYS, *_BLOCK_KEYS), signature=_SIGNATURE),
    )

    def __init__(
        self,
        size: str = 'w18',
        base_channels: int | None = None,
        num_bottlenecks: int | None = None,
        bottleneck_width: int | None = None,
        num_modules: Sequence[int] | None = None,
        num_blocks: int | None = None,
        in_channels: int = 3,
        stem_channels: int = 64,
        upsample: Literal['nearest', 'bilinear'] = 'nearest',
        zero_init_last: bool = True,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (2, 3, 4, 5),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'HRNet has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'base_channels, num_bottlenecks, num_modules and num_blocks')
        if upsample not in ('nearest', 'bilinear'):
            raise ValueError(f"upsample is 'nearest' or 'bilinear', not {upsample!r}")
        default = _SIZES[size]
        num_modules = tuple(num_modules or default[3])
        if len(num_modules) != 3 or min(num_modules) < 1:
            raise ValueError('HRNet needs num_modules of three stages, each at least 1, not '
                             f'{num_modules}')
        self.out_stages = check_out_stages(out_stages, first=2, last=5)
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, stem_channels, 3, 2, **style),
            ConvNormAct(stem_channels, stem_channels, 3, 2, **style))
        width = bottleneck_width or default[2]
        wide = width * Bottleneck.expansion
        self.bottlenecks = nn.Sequential(*(
            Bottleneck(wide if i else stem_channels, width, **style)
            for i in range(num_bottlenecks or default[1])))
        channels = [(base_channels or default[0]) * 2**i for i in range(4)]
        before = [wide]
        self.transitions, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, num in enumerate(num_modules):
            branches = channels[: i + 2]
            self.transitions.append(nn.ModuleList([
                *(nn.Identity() if c == b else ConvNormAct(b, c, 3, **style)
                  for b, c in zip(before, branches)),
                ConvNormAct(before[-1], branches[-1], 3, 2, **style)]))
            # The last sums need not give a map that nobody reads.
            outputs: list[Sequence[int]] = [range(i + 2)] * (num - 1)
            outputs.append(range(i + 2) if i < 2 else [s - 2 for s in self.out_stages])
            self.stages.append(nn.Sequential(*(
                HRModule(branches, num_blocks or default[4], out, upsample, **style)
                for out in outputs)))
            before = branches
        self.out_channels = tuple(channels[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        _init(self, zero_init_last)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        maps = [self.bottlenecks(self.stem(x))]
        for transition, stage in zip(self.transitions, self.stages):
            parts = list(transition.children())  # one for each map, one that begins a branch
            maps = stage([*(part(m) for part, m in zip(parts, maps)), parts[-1](maps[-1])])
        return tuple(maps)


@MODELS.register_module()
class HRMerge(nn.Module):
    """Merge the maps of an HRNet into one of 2048 channels, as its classifiers do.

    Each map gets more channels in a bottleneck; from the finest on, the sum so far is halved in
    size and added to the next.

    Args:
        in_channels: channels of the maps, finest first.
        widths: a quarter of the channels that each map is brought to.
        out_channels: channels of the merged map.
        bias: whether the convolutions that halve, and the last, have one beside their
            normalisation, as in the files of HRNet's authors; those of OpenMMLab lack it.
        zero_init_last: start each residual branch at zero.
        norm: see ``make_norm``.
        act: see ``make_act``.

    Attributes:
        out_channels: channels of the one map that comes out.
    """

    weights = (
        KeyMap(
            'openmmlab',
            [
                (r'^0\.', ''),  # OpenMMLab's classifiers keep their necks in a list
                (r'^increase_layers\.(\d)\.0\.', r'widen.\1.'),
                (r'^downsample_layers\.(\d)\.', r'down.\1.'),
                (r'^final_layer\.', 'last.'),
                (r'\.bn\.', '.norm.'),
                *_BLOCK_KEYS,
            ],
            signature=(r'^0\.increase_layers\.',)),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        widths: Sequence[int] = (32, 64, 128, 256),
        out_channels: int = 2048,
        bias: bool = True,
        zero_init_last: bool = True,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        if len(in_channels) != len(widths):
            raise ValueError(f'HRMerge gets {len(in_channels)} maps ({tuple(in_channels)} channels)'
                             f' but has widths for {len(widths)}; leave the backbone\'s out_stages '
                             'at all four, or give as many widths')
        style: dict[str, Any] = {'norm': norm, 'act': act}
        wide = [w * Bottleneck.expansion for w in widths]
        self.widen = nn.ModuleList(Bottleneck(c, w, **style) for c, w in zip(in_channels, widths))
        self.down = nn.ModuleList(
            ConvNormAct(a, b, 3, 2, bias=bias, **style) for a, b in pairwise(wide))
        self.last = ConvNormAct(wide[-1], out_channels, 1, bias=bias, **style)
        self.out_channels = (out_channels,)
        _init(self, zero_init_last)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, out_channels, H, W) of the coarsest size, from maps finest first."""
        x = self.widen[0](feats[0])
        for feat, widen, down in zip(feats[1:], list(self.widen)[1:], self.down):
            x = widen(feat) + down(x)
        return (self.last(x),)


def _init(module: nn.Module, zero_init_last: bool) -> None:
    init_conv_net(module)
    if zero_init_last:
        for part in module.modules():
            if isinstance(part, BasicBlock):
                zero_scale(part.conv2.norm)
            elif isinstance(part, Bottleneck):
                zero_scale(part.conv3.norm)
