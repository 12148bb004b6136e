"""MiT: the hierarchical transformer of SegFormer.

Xie et al., SegFormer, https://arxiv.org/abs/2105.15203

Four stages as in a convolutional network, at strides 4 to 32. Patches overlap; keys and values
are taken from a reduced map, which makes attention affordable on fine maps; a depthwise
convolution in each MLP tells tokens where they are, so that there are no positions to interpolate.
Stages are counted by their stride, as in ``ResNet``: 2 (stride 4) to 5 (stride 32).

B batch · N tokens · M reduced tokens · D embedding · H, W height and width of a map
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.attention import attend
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # table 6: embed_dims, num_blocks
    'b0': ((32, 64, 160, 256), (2, 2, 2, 2)),
    'b1': ((64, 128, 320, 512), (2, 2, 2, 2)),
    'b2': ((64, 128, 320, 512), (3, 4, 6, 3)),
    'b3': ((64, 128, 320, 512), (3, 4, 18, 3)),
    'b4': ((64, 128, 320, 512), (3, 8, 27, 3)),
    'b5': ((64, 128, 320, 512), (3, 6, 40, 3)),
}

_TRANSFORMERS_KEYS = (
    (r'\.patch_embeddings\.proj\.', '.patch_embed.proj.'),
    (r'\.patch_embeddings\.layer_norm\.', '.patch_embed.norm.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.([qkv])_proj\.', r'.attn.\1.'),
    (r'\.attention\.o_proj\.', '.attn.proj.'),
    (r'\.attention\.sequence_reduction\.sequence_reduction\.', '.attn.reduce.'),
    (r'\.attention\.sequence_reduction\.layer_norm\.', '.attn.norm.'),
    (r'\.dwconv\.dwconv\.', '.conv.'),
    (r'^(stages\.\d+)\.layer_norm\.', r'\1.norm.'),
)
# The files on the Hugging Face hub keep the names of earlier versions.
_PUBLISHED_KEYS = (
    (r'^encoder\.patch_embeddings\.(\d)\.proj\.', r'stages.\1.patch_embed.proj.'),
    (r'^encoder\.patch_embeddings\.(\d)\.layer_norm\.', r'stages.\1.patch_embed.norm.'),
    (r'^encoder\.layer_norm\.(\d)\.', r'stages.\1.norm.'),
    (r'^encoder\.block\.(\d)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'\.layer_norm_([12])\.', r'.norm\1.'),
    (r'\.attention\.self\.(q|k|v)(?:uery|ey|alue)\.', r'.attn.\1.'),
    (r'\.attention\.self\.sr\.', '.attn.reduce.'),
    (r'\.attention\.self\.layer_norm\.', '.attn.norm.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.mlp\.dense([12])\.', r'.mlp.fc\1.'),
    (r'\.dwconv\.dwconv\.', '.conv.'),
)


class ReducedAttention(nn.Module):
    """Attention of all tokens to a reduced map of tokens (section 3.1).

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads, a divisor of ``embed_dim``.
        reduction: side of the patch that becomes one key and value; 1 is plain attention.
        dropout: probability to drop an output in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, reduction: int = 1, dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f'embed_dim={embed_dim} cannot be split over num_heads={num_heads}')
        self.num_heads = num_heads
        self.reduction = reduction
        self.q, self.k, self.v = (nn.Linear(embed_dim, embed_dim) for _ in range(3))
        if reduction > 1:
            self.reduce = nn.Conv2d(embed_dim, embed_dim, reduction, reduction)
            self.norm = nn.LayerNorm(embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens (B, N, D) of a map of ``size`` (H, W) to the same shape."""
        source = self._source(x, size)
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k = self.k(source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        v = self.v(source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        y = attend(q, k, v)
        return self.dropout(self.proj(y.transpose(1, 2).flatten(2)))

    def _source(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """What keys and values are made of, (B, M, D), of tokens (B, N, D)."""
        if self.reduction == 1:
            return x
        # A map smaller than one patch would leave no key; then it is padded to one.
        missing = [max(self.reduction - side, 0) for side in size]
        grid = x.transpose(1, 2).unflatten(2, size)
        if any(missing):
            grid = F.pad(grid, (0, missing[1], 0, missing[0]))
        return self.norm(self.reduce(grid).flatten(2).transpose(1, 2))


class MixMLP(nn.Module):
    """An MLP with a depthwise 3x3 convolution between its layers (eq. 3).

    Args:
        embed_dim: size of a token (D).
        hidden_dim: size between the layers.
        dropout: probability to drop an output of either layer in training.
        act: see ``make_act``; by default GELU.
        with_relu: put a ReLU before the convolution (the linear form of PVT v2).
    """

    def __init__(self, embed_dim: int, hidden_dim: int, dropout: float = 0.0,
                 act: dict[str, Any] | None = None, with_relu: bool = False):
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.relu = nn.ReLU() if with_relu else nn.Identity()
        self.conv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.act = make_act(act or {'type': nn.GELU})
        self.fc2 = nn.Linear(hidden_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens (B, N, D) of a map of ``size`` (H, W) to the same shape."""
        grid = self.fc1(x).transpose(1, 2).unflatten(2, size)
        x = self.conv(self.relu(grid)).flatten(2).transpose(1, 2)
        return self.dropout(self.fc2(self.dropout(self.act(x))))


class MixBlock(nn.Module):
    """Reduced attention, then a mix MLP, each behind its norm and with a residual around it.

    Args:
        embed_dim: size of a token (D).
        num_heads: heads of the attention.
        reduction: see ``ReducedAttention``.
        mlp_ratio: hidden size of the MLP over ``embed_dim``.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to leave out each of the two branches in training.
        act: see ``make_act``; by default GELU.
    """

    def __init__(self, embed_dim: int, num_heads: int, reduction: int, mlp_ratio: float = 4.0,
                 dropout: float = 0.0, drop_path: float = 0.0, act: dict[str, Any] | None = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = ReducedAttention(embed_dim, num_heads, reduction, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = MixMLP(embed_dim, int(embed_dim * mlp_ratio), dropout, act)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens (B, N, D) of a map of ``size`` (H, W) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class OverlappingPatches(nn.Module):
    """Embed patches that overlap their neighbours, and normalise them.

    Args:
        in_channels: channels of the map.
        embed_dim: size of a token (D).
        patch_size: side of a patch, odd.
        stride: step between two patches.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride, patch_size // 2)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map (B, C, H, W) to tokens (B, N, D) and the (H, W) of their map."""
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), (x.shape[2], x.shape[3])


class MixStage(nn.Module):
    """Patches, blocks and a norm.

    Args:
        patch_embed: map to tokens.
        blocks: the ``MixBlock`` of the stage.
        embed_dim: size of a token (D).
    """

    def __init__(self, patch_embed: OverlappingPatches, blocks: Sequence[MixBlock],
                 embed_dim: int):
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / stride, W / stride)."""
        x, size = self.patch_embed(x)
        for block in self.blocks:
            x = block(x, size)
        return self.norm(x).transpose(1, 2).unflatten(2, size).contiguous()


@MODELS.register_module()
class MixTransformer(nn.Module):
    """MiT-B0 to -B5, or any other size.

    Args:
        size: ``'b0'`` to ``'b5'``: sets ``embed_dims`` and ``num_blocks`` where left out.
        embed_dims: size of a token in each stage.
        num_blocks: blocks of each stage.
        num_heads: heads of each stage.
        reductions: side of the patch that becomes one key, in each stage.
        mlp_ratio: hidden size of the MLPs over the size of a token.
        in_channels: channels of the input.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        act: see ``make_act``; by default GELU.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('transformers', _TRANSFORMERS_KEYS, signature=(r'^stages\.0\.patch_embeddings',)),
        KeyMap('transformers', _PUBLISHED_KEYS, signature=(r'^encoder\.patch_embeddings\.0',)),
    )

    def __init__(
        self,
        size: Literal['b0', 'b1', 'b2', 'b3', 'b4', 'b5'] = 'b0',
        embed_dims: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratio: float = 4.0,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'MixTransformer has sizes {list(_SIZES)}, not {size!r}; for another '
                             'one give embed_dims and num_blocks')
        dims = tuple(embed_dims or _SIZES[size][0])
        depths = tuple(num_blocks or _SIZES[size][1])
        lengths = {len(dims), len(depths), len(num_heads), len(reductions)}
        if len(lengths) > 1:
            raise ValueError(
                f'each stage needs an entry in embed_dims={dims}, num_blocks={depths}, num_heads='
                f'{tuple(num_heads)} and reductions={tuple(reductions)}')
        self.out_stages = check_out_stages(out_stages, first=2, last=len(dims) + 1)
        probs = iter(drop_path_probs(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        channels = in_channels
        for i in range(self.out_stages[-1] - 1):
            patch, stride = (7, 4) if i == 0 else (3, 2)
            blocks = [MixBlock(dims[i], num_heads[i], reductions[i], mlp_ratio, dropout,
                               next(probs), act) for _ in range(depths[i])]
            self.stages.append(MixStage(OverlappingPatches(channels, dims[i], patch, stride),
                                        blocks, dims[i]))
            channels = dims[i]
        self.out_channels = tuple(dims[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_transformer(self)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                fan_out = part.kernel_size[0] ** 2 * part.out_channels // part.groups
                nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, D, H / stride, W / stride), from x (B, 3, H, W)."""
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
