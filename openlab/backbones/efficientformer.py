"""EfficientFormer: as fast as MobileNet on a phone, because attention comes only at the very end.

Li et al., EfficientFormer: Vision Transformers at MobileNet Speed,
https://arxiv.org/abs/2206.01191

Blocks of local means as in PoolFormer, but with batch normalisation, which folds into convolutions;
the last blocks of the last stage attend to the whole map. Stages are counted by their stride, from
2 (stride 4) to 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.distance_bias import DistanceAttention
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.transformer import MLP
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    # channels and blocks of each stage, blocks at the end that attend
    'l1': ((48, 96, 224, 448), (3, 2, 6, 4), 1),
    'l3': ((64, 128, 320, 512), (4, 4, 12, 6), 4),
    'l7': ((96, 192, 384, 768), (6, 6, 18, 8), 8),
}
_KEY_DIM, _NUM_HEADS, _VALUE_RATIO = 32, 8, 4


class ConvMLP(nn.Module):
    """Two 1x1 convolutions with norms, and an activation between them.

    Args:
        channels: channels of input and output (C).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, 4 * channels, 1)
        self.norm1 = nn.BatchNorm2d(4 * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(4 * channels, channels, 1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))


class PoolBlock(nn.Module):
    """Local mean, then an MLP, each scaled and with a residual around it.

    Args:
        channels: channels of input and output (C).
        layer_scale: first value of the learned scales.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, channels: int, layer_scale: float, drop_path: float = 0.0):
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.scale1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.mlp = ConvMLP(channels)
        self.scale2 = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        # The residual carries the value itself already.
        x = x + self.drop_path(self.scale1[:, None, None] * (self.pool(x) - x))
        return x + self.drop_path(self.scale2[:, None, None] * self.mlp(x))


class ChannelsLast(nn.Module):
    """Where the blocks begin that see a map as tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, H, W, C)."""
        return x.permute(0, 2, 3, 1)


class AttentionBlock(nn.Module):
    """Attention to the whole map, then an MLP, each behind its norm, scaled, with a residual.

    Args:
        channels: channels of input and output (C).
        grid: (H, W) that biases are learned for.
        layer_scale: first value of the learned scales.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, channels: int, grid: tuple[int, int], layer_scale: float,
                 drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = DistanceAttention(channels, _KEY_DIM, _NUM_HEADS, _VALUE_RATIO, grid)
        self.scale1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, 4 * channels)
        self.scale2 = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        H, W = x.shape[1:3]
        y = self.attn(self.norm1(x).flatten(1, 2), (H, W)).unflatten(1, (H, W))
        x = x + self.drop_path(self.scale1 * y)
        return x + self.drop_path(self.scale2 * self.mlp(self.norm2(x)))


class EfficientFormerStage(nn.Module):
    """A strided convolution (not in the first stage) and blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.is_channels_last = any(isinstance(block, ChannelsLast) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / 2, W / 2), or in the first stage to the same shape."""
        x = self.blocks(self.downsample(x))
        return x.permute(0, 3, 1, 2) if self.is_channels_last else x


_BLOCK_KEYS = (
    (r'\.token_mixer\.attention_biases$', '.attn.bias.table'),
    (r'\.token_mixer\.', '.attn.'),
    (r'\.ls([12])\.(?:gamma|weight)$', r'.scale\1'),
)
_MOST_BLOCKS = 32  # of a stage, in key maps
_TIMM_KEYS = (
    *_BLOCK_KEYS,
    *((rf'^stem\.{part}{i + 1}\.', f'stem.{i}.{part}.') for i in (0, 1) for part in
      ('conv', 'norm')),
    (r'^norm\.', 'norms.5.'),
    (r'^head\.', '../head.fc.'),
    (r'^head_dist\.', '../head.fc_distill.'),
)
_OPENMMLAB_KEYS = (
    *_BLOCK_KEYS,
    (r'^patch_embed\.', 'stem.'),
    (r'^network\.0\.', 'stages.0.blocks.'),
    (r'^network\.([123])\.0\.', r'stages.\1.downsample.'),
    *((rf'^network\.([123])\.{i + 1}\.', rf'stages.\1.blocks.{i}.') for i in range(_MOST_BLOCKS)),
    (r'\.bn\.', '.norm.'),
    *((rf'^norm{i}\.', f'norms.{i + 2}.') for i in range(4)),
)
_COMPUTED = ((r'attention_bias_idxs$', 'computed from the size of the map'),)


@MODELS.register_module()
class EfficientFormer(nn.Module):
    """EfficientFormer-L1, -L3 and -L7, or any other size.

    Args:
        size: ``'l1'``, ``'l3'`` or ``'l7'``: sets the next three where left out.
        channels: channels of each stage.
        num_blocks: blocks of each stage.
        num_attending: blocks at the end of the last stage that attend.
        image_size: (height, width), or one number for both, that biases are learned for. Images
            of other sizes work as well: biases are then interpolated.
        in_channels: channels of the input.
        layer_scale: first value of the learned scales of the branches.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32); each
            map passes a norm of its own.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, _COMPUTED,
               signature=(r'^stem\.conv1\.', r'\.token_mixer\.attention_biases$')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, _COMPUTED,
               signature=(r'^patch_embed\.0\.conv\.', r'\.token_mixer\.attention_biases$')),
    )

    def __init__(
        self,
        size: Literal['l1', 'l3', 'l7'] = 'l1',
        channels: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        num_attending: int | None = None,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'EfficientFormer has sizes {list(_SIZES)}, not {size!r}; for another '
                             'one give channels, num_blocks and num_attending')
        widths, depths = tuple(channels or _SIZES[size][0]), tuple(num_blocks or _SIZES[size][1])
        if num_attending is None:
            num_attending = _SIZES[size][2]
        if not len(widths) == len(depths) == 4:
            raise ValueError(f'each of the 4 stages needs an entry in channels={widths} and '
                             f'num_blocks={depths}')
        if not 0 <= num_attending <= depths[-1]:
            raise ValueError(f'num_attending must be within 0 to the {depths[-1]} blocks of the '
                             f'last stage, not {num_attending}')
        self.out_stages = check_out_stages(out_stages, first=2, last=5)
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, widths[0] // 2, 3, 2, bias=True),
            ConvNormAct(widths[0] // 2, widths[0], 3, 2, bias=True))
        grid = _grid(image_size)
        probs = iter(drop_path_probs(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        for i in range(self.out_stages[-1] - 1):
            num_attend = num_attending if i == 3 else 0
            blocks: list[nn.Module] = [
                PoolBlock(widths[i], layer_scale, next(probs))
                for _ in range(depths[i] - num_attend)]
            if num_attend:
                blocks.append(ChannelsLast())
                blocks += [AttentionBlock(widths[i], grid, layer_scale, next(probs))
                           for _ in range(num_attend)]
            downsample = (ConvNormAct(widths[i - 1], widths[i], 3, 2, with_act=False, bias=True)
                          if i else nn.Identity())
            self.stages.append(EfficientFormerStage(downsample, blocks))
        self.out_channels = tuple(widths[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        self.norms = nn.ModuleDict({
            str(s): nn.LayerNorm(c) for s, c in zip(self.out_stages, self.out_channels)})
        init_transformer(self)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name.endswith('.bias.table')}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                y = self.norms[str(stage)](x.permute(0, 2, 3, 1))
                outs.append(y.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)


def _grid(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Size of the last map for images of a size; all strided convolutions round up."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return math.ceil(height / 32), math.ceil(width / 32)
