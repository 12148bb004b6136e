"""PoolFormer: a transformer whose attention is replaced by the mean of a 3x3 window.

Yu et al., MetaFormer is Actually What You Need for Vision, https://arxiv.org/abs/2111.11418

Stages are counted by their stride, from 2 (stride 4) to 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    # blocks and channels of each stage, first value of the learned scales
    's12': ((2, 2, 6, 2), (64, 128, 320, 512), 1e-5),
    's24': ((4, 4, 12, 4), (64, 128, 320, 512), 1e-5),
    's36': ((6, 6, 18, 6), (64, 128, 320, 512), 1e-6),
    'm36': ((6, 6, 18, 6), (96, 192, 384, 768), 1e-6),
    'm48': ((8, 8, 24, 8), (96, 192, 384, 768), 1e-6),
}


class PoolFormerBlock(nn.Module):
    """Local mean, then an MLP, each behind its norm, scaled, and with a residual around it.

    Args:
        channels: channels of input and output.
        layer_scale: first value of the learned scales.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, channels: int, layer_scale: float, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, channels)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.scale1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.norm2 = nn.GroupNorm(1, channels)
        self.fc1 = nn.Conv2d(channels, 4 * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(4 * channels, channels, 1)
        self.scale2 = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = self.norm1(x)
        # The residual carries the value itself already.
        x = x + self.drop_path(self.scale1[:, None, None] * (self.pool(y) - y))
        y = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + self.drop_path(self.scale2[:, None, None] * y)


_TIMM_KEYS = (
    (r'^stem\.conv\.', 'downsamples.0.'),
    (r'^stages\.(\d)\.downsample\.conv\.', r'downsamples.\1.'),
    (r'^(stages\.\d)\.blocks\.', r'\1.'),
    (r'\.layer_scale([12])\.scale$', r'.scale\1'),
    (r'\.mlp\.', '.'),
    (r'^head\.norm\.', 'norms.5.'),
    (r'^head\.fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'^patch_embed\.proj\.', 'downsamples.0.'),
    *((rf'^network\.{2 * i - 1}\.proj\.', f'downsamples.{i}.') for i in (1, 2, 3)),
    *((rf'^network\.{2 * i}\.', f'stages.{i}.') for i in range(4)),
    (r'\.layer_scale_([12])$', r'.scale\1'),
    (r'\.mlp\.', '.'),
    *((rf'^norm{2 * i}\.', f'norms.{i + 2}.') for i in range(4)),
)

_TRANSFORMERS_KEYS = (
    (r'^poolformer\.', ''),
    (r'^encoder\.patch_embeddings\.(\d)\.projection\.', r'downsamples.\1.'),
    (r'^encoder\.block\.', 'stages.'),
    (r'\.layer_scale_([12])$', r'.scale\1'),
    (r'\.before_norm\.', '.norm1.'),
    (r'\.after_norm\.', '.norm2.'),
    (r'\.output\.conv([12])\.', r'.fc\1.'),
    (r'^norm\.', 'norms.5.'),
    (r'^classifier\.', '../head.fc.'),
)


@MODELS.register_module()
class PoolFormer(nn.Module):
    """PoolFormer S12, S24, S36, M36 or M48.

    Args:
        size: ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'`` or ``'m48'``: sets the next two.
        num_blocks: blocks of each stage.
        channels: channels of each stage.
        in_channels: channels of the input.
        drop_path: probability to drop the last block's branches; it rises linearly from 0.
        output: ``'maps'`` are the normalised maps of ``out_stages``, which a head averages (as in
            the paper's code and OpenMMLab); ``'mean'`` is one vector (B, C), the last map
            averaged and then normalised (as in timm, for its weights).
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, signature=(r'^stages\.0\.blocks\.0\.layer_scale1\.scale$',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^network\.0\.0\.layer_scale_1$',)),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               signature=(r'encoder\.patch_embeddings\.0\.', r'\.0\.0\.layer_scale_1$')),
    )

    def __init__(
        self,
        size: str = 's12',
        num_blocks: Sequence[int] | None = None,
        channels: Sequence[int] | None = None,
        in_channels: int = 3,
        drop_path: float = 0.0,
        output: Literal['maps', 'mean'] = 'maps',
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'PoolFormer has sizes {list(_SIZES)}, not {size!r}')
        if output not in ('maps', 'mean'):
            raise ValueError(f"output is 'maps' or 'mean', not {output!r}")
        num_blocks = tuple(num_blocks or _SIZES[size][0])
        channels = tuple(channels or _SIZES[size][1])
        self.output = output
        self.out_stages = check_out_stages(out_stages, first=2, last=5)
        if output == 'mean' and self.out_stages != (5,):
            raise ValueError(f"output='mean' gives stage 5 only, not {self.out_stages}")
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        previous = in_channels
        for i in range(self.out_stages[-1] - 1):
            kernel, stride, padding = (7, 4, 2) if i == 0 else (3, 2, 1)
            self.downsamples.append(nn.Conv2d(previous, channels[i], kernel, stride, padding))
            self.stages.append(nn.Sequential(*(
                PoolFormerBlock(channels[i], _SIZES[size][2], next(probs))
                for _ in range(num_blocks[i]))))
            previous = channels[i]
        self.out_channels = tuple(channels[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        eps = 1e-6 if output == 'mean' else 1e-5
        self.norms = nn.ModuleDict({
            str(s): nn.GroupNorm(1, c, eps) for s, c in zip(self.out_stages, self.out_channels)})
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C, H / stride, W / stride) or a vector (B, C), from x (B, 3, H, W)."""
        maps = {}
        for stage, (downsample, blocks) in enumerate(zip(self.downsamples, self.stages), start=2):
            x = maps[stage] = blocks(downsample(x))
        if self.output == 'mean':
            maps[5] = x.mean((2, 3))
        return tuple(self.norms[str(s)](maps[s]) for s in self.out_stages)
