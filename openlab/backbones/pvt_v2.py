"""PVT v2: a pyramid of overlapping patches with attention to a reduced map.

Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer,
https://arxiv.org/abs/2106.13797

The parts are those of MiT, which came after; only norms and ratios differ. The linear form (-Li)
averages keys and values to a map of 7 x 7, whatever the size of the image.
Stages are counted by their stride, as in ``ResNet``: 2 (stride 4) to 5 (stride 32).

B batch · N tokens · M reduced tokens · D embedding · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.mit import MixMLP, OverlappingPatches, ReducedAttention
from openlab.backbones.stages import check_out_stages
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net, init_transformer
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    # table 1: embed_dims, num_blocks, mlp_ratios
    'b0': ((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    'b1': ((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    'b2': ((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    'b3': ((64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    'b4': ((64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    'b5': ((64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
}


class PooledAttention(ReducedAttention):
    """Attention of all tokens to a map averaged to 7 x 7 (section 3.1).

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads, a divisor of ``embed_dim``.
    """

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__(embed_dim, num_heads)
        self.reduce = nn.Conv2d(embed_dim, embed_dim, 1)
        self.norm = nn.LayerNorm(embed_dim)

    def _source(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        grid = F.adaptive_avg_pool2d(x.transpose(1, 2).unflatten(2, size), 7)
        return F.gelu(self.norm(self.reduce(grid).flatten(2).transpose(1, 2)))


class PVTBlock(nn.Module):
    """Attention to a reduced map, then an MLP with a convolution, each with norm and residual.

    Args:
        embed_dim: size of a token (D).
        num_heads: heads of the attention.
        reduction: side of the patch that becomes one key.
        mlp_ratio: hidden size of the MLP over ``embed_dim``.
        is_linear: attend to a map of 7 x 7 instead, and put a ReLU before the convolution.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, reduction: int, mlp_ratio: float,
                 is_linear: bool, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = (PooledAttention(embed_dim, num_heads) if is_linear
                     else ReducedAttention(embed_dim, num_heads, reduction))
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MixMLP(embed_dim, int(embed_dim * mlp_ratio), with_relu=is_linear)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens (B, N, D) of a map of ``size`` (H, W) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class PVTStage(nn.Module):
    """Patches, blocks and a norm."""

    def __init__(self, patch_embed: nn.Module, blocks: Sequence[PVTBlock], embed_dim: int):
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / stride, W / stride)."""
        x, size = self.patch_embed(x)
        for block in self.blocks:
            x = block(x, size)
        return self.norm(x).transpose(1, 2).unflatten(2, size).contiguous()


_RENAMES = (
    (r'\.attn\.sr\.', '.attn.reduce.'),
    (r'\.mlp\.dwconv\.', '.mlp.conv.'),
    (r'^patch_embed\.', 'stages.0.patch_embed.'),
    (r'\.downsample\.', '.patch_embed.'),
    (r'^head\.', '../head.fc.'),
)


def _split_key_value(tensor: Tensor) -> dict[str, Tensor]:
    key, value = tensor.chunk(2)
    return {'.attn.k.': key, '.attn.v.': value}

_TRANSFORMERS_KEYS = (
    (r'^pvt_v2\.', ''),
    (r'^encoder\.layers\.', 'stages.'),
    (r'\.patch_embedding\.proj\.', '.patch_embed.proj.'),
    (r'\.patch_embedding\.layer_norm\.', '.patch_embed.norm.'),
    (r'\.layer_norm_([12])\.', r'.norm\1.'),
    (r'\.attention\.query\.', '.attn.q.'),
    (r'\.attention\.key\.', '.attn.k.'),
    (r'\.attention\.value\.', '.attn.v.'),
    (r'\.attention\.spatial_reduction\.', '.attn.reduce.'),
    (r'\.attention\.layer_norm\.', '.attn.norm.'),
    (r'\.attention\.', '.attn.'),
    (r'\.mlp\.dense([12])\.', r'.mlp.fc\1.'),
    (r'\.mlp\.dwconv\.dwconv\.', '.mlp.conv.'),
    (r'^(stages\.\d)\.layer_norm\.', r'\1.norm.'),
    (r'^classifier\.', '../head.fc.'),
)


@MODELS.register_module()
class PVTv2(nn.Module):
    """PVT v2-B0 to -B5, and -B2-Li, or any other size.

    Args:
        size: ``'b0'`` to ``'b5'``: sets ``embed_dims``, ``num_blocks`` and ``mlp_ratios`` where
            left out.
        is_linear: attend to a map averaged to 7 x 7: the cost is linear in the pixels.
        embed_dims: size of a token in each stage.
        num_blocks: blocks of each stage.
        num_heads: heads of each stage.
        reductions: side of the patch that becomes one key, in each stage.
        mlp_ratios: hidden size of the MLPs over the size of a token, in each stage.
        in_channels: channels of the input.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _RENAMES, transforms=((r'\.attn\.kv\.', _split_key_value),),
               signature=(r'^patch_embed\.norm\.', r'^stages\.0\.blocks\.0\.mlp\.dwconv\.')),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               signature=(r'\.0\.patch_embedding\.layer_norm\.', r'\.mlp\.dwconv\.dwconv\.')),
    )

    def __init__(
        self,
        size: Literal['b0', 'b1', 'b2', 'b3', 'b4', 'b5'] = 'b2',
        is_linear: bool = False,
        embed_dims: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] | None = None,
        in_channels: int = 3,
        drop_path: float = 0.1,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'PVTv2 has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'embed_dims, num_blocks and mlp_ratios')
        dims, depths = embed_dims or _SIZES[size][0], num_blocks or _SIZES[size][1]
        ratios = mlp_ratios or _SIZES[size][2]
        if len({len(dims), len(depths), len(ratios), len(num_heads), len(reductions)}) > 1:
            raise ValueError(
                f'each stage needs an entry in embed_dims={tuple(dims)}, num_blocks='
                f'{tuple(depths)}, mlp_ratios={tuple(ratios)}, num_heads={tuple(num_heads)} and '
                f'reductions={tuple(reductions)}')
        self.out_stages = check_out_stages(out_stages, first=2, last=len(dims) + 1)
        probs = iter(drop_path_probs(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        channels = in_channels
        for i in range(self.out_stages[-1] - 1):
            patch, stride = (7, 4) if i == 0 else (3, 2)
            blocks = [PVTBlock(dims[i], num_heads[i], reductions[i], ratios[i], is_linear,
                               next(probs)) for _ in range(depths[i])]
            self.stages.append(PVTStage(OverlappingPatches(channels, dims[i], patch, stride),
                                        blocks, dims[i]))
            channels = dims[i]
        self.out_channels = tuple(dims[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_transformer(self)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, D, H / stride, W / stride), from x (B, 3, H, W)."""
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
