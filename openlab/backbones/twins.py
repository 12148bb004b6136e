"""Twins: attention within windows or to a reduced map, and positions by convolution.

Chu et al., Twins: Revisiting the Design of Spatial Attention in Vision Transformers,
https://arxiv.org/abs/2104.13840; positions from https://arxiv.org/abs/2102.10882

PCPVT attends to a reduced map in every block; SVT alternates windows (each block of an even
index) with a reduced map. A depthwise convolution after the first block of each stage tells
tokens where they are. Stages are counted by their stride: 2 (stride 4) to 5 (stride 32).

B batch · N tokens · D embedding · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from openlab.backbones.mit import ReducedAttention
from openlab.backbones.stages import check_out_stages
from openlab.layers.attention import Attention
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net, init_transformer
from openlab.layers.transformer import MLP
from openlab.layers.window import merge_windows, pad_to_windows, partition_windows
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_SIZES: dict[str, _Settings] = {  # embed_dims, num_blocks, num_heads, mlp_ratios
    'pcpvt_small': ((64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8), (8, 8, 4, 4)),
    'pcpvt_base': ((64, 128, 320, 512), (3, 4, 18, 3), (1, 2, 5, 8), (8, 8, 4, 4)),
    'pcpvt_large': ((64, 128, 320, 512), (3, 8, 27, 3), (1, 2, 5, 8), (8, 8, 4, 4)),
    'svt_small': ((64, 128, 256, 512), (2, 2, 10, 4), (2, 4, 8, 16), (4, 4, 4, 4)),
    'svt_base': ((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24), (4, 4, 4, 4)),
    'svt_large': ((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32), (4, 4, 4, 4)),
}


class LocalAttention(Attention):
    """Attention within windows (section 3.2); zeros complete the last ones.

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads.
        window_size: side of a window.
    """

    def __init__(self, embed_dim: int, num_heads: int, window_size: int):
        super().__init__(embed_dim, num_heads)
        self.window_size = (window_size, window_size)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Map tokens (B, N, D) of a map of ``size`` (H, W) to the same shape."""
        grid = pad_to_windows(x.unflatten(1, size), self.window_size)
        windows = super().forward(partition_windows(grid, self.window_size))
        grid = merge_windows(windows, self.window_size, (grid.shape[1], grid.shape[2]))
        return grid[:, : size[0], : size[1]].flatten(1, 2)


class TwinsBlock(nn.Module):
    """Attention, then an MLP, each behind its norm and with a residual around it.

    Args:
        attn: takes tokens and the size of their map.
        embed_dim: size of a token (D).
        mlp_ratio: hidden size of the MLP over ``embed_dim``.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, attn: nn.Module, embed_dim: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim, int(embed_dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens (B, N, D) of a map of ``size`` (H, W) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TwinsStage(nn.Module):
    """Patches, blocks, and positions after the first block.

    Args:
        in_channels: channels of the map that comes in.
        embed_dim: size of a token (D).
        patch_size: side of the patch that becomes a token.
        blocks: the blocks of the stage.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int,
                 blocks: Sequence[TwinsBlock]):
        super().__init__()
        self.patch_embed = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)
        self.patch_norm = nn.LayerNorm(embed_dim)
        self.blocks = nn.ModuleList(blocks)
        self.position = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / patch_size, W / patch_size)."""
        x = self.patch_embed(x)
        size = (x.shape[2], x.shape[3])
        x = self.patch_norm(x.flatten(2).transpose(1, 2))
        for i, block in enumerate(self.blocks):
            x = block(x, size)
            if i == 0:
                grid = x.transpose(1, 2).unflatten(2, size)
                x = (grid + self.position(grid)).flatten(2).transpose(1, 2)
        return x.transpose(1, 2).unflatten(2, size)


def _split_key_value(tensor: Tensor) -> dict[str, Tensor]:
    key, value = tensor.chunk(2)
    return {'.attn.k.': key, '.attn.v.': value}


_SPLIT = ((r'\.attn\.kv\.', _split_key_value),)
_TIMM_KEYS = (
    (r'^patch_embeds\.(\d)\.proj\.', r'stages.\1.patch_embed.'),
    (r'^patch_embeds\.(\d)\.norm\.', r'stages.\1.patch_norm.'),
    (r'^blocks\.(\d)\.', r'stages.\1.blocks.'),
    (r'^pos_block\.(\d)\.proj\.0\.', r'stages.\1.position.'),
    (r'\.attn\.sr\.', '.attn.reduce.'),
    (r'^norm\.', 'norms.3.'),
    (r'^head\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'^stages\.(\d)\.', r'stages.\1.blocks.'),
    (r'^patch_embeds\.(\d)\.projection\.', r'stages.\1.patch_embed.'),
    (r'^patch_embeds\.(\d)\.norm\.', r'stages.\1.patch_norm.'),
    (r'^position_encodings\.(\d)\.proj\.', r'stages.\1.position.'),
    (r'\.attn\.sr\.', '.attn.reduce.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
    (r'^norm_after_stage(\d)\.', r'norms.\1.'),
)


@MODELS.register_module()
class Twins(nn.Module):
    """Twins-PCPVT-S, -B, -L and Twins-SVT-S, -B, -L, or any other size.

    Args:
        size: ``'pcpvt_small'``, ``'pcpvt_base'``, ``'pcpvt_large'``, ``'svt_small'``,
            ``'svt_base'`` or ``'svt_large'``: sets the lists below where these are left out, and
            whether windows and reduced maps alternate.
        embed_dims: size of a token in each stage.
        num_blocks: blocks of each stage.
        num_heads: heads of each stage.
        mlp_ratios: hidden size of the MLPs over the size of a token, in each stage.
        reductions: side of the patch that becomes one key, in each stage.
        window_size: side of the windows of SVT.
        in_channels: channels of the input.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32); each
            map passes a norm of its own.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, transforms=_SPLIT, signature=(r'^pos_block\.0\.proj\.0\.',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, transforms=_SPLIT,
               signature=(r'^position_encodings\.0\.proj\.',)),
    )

    def __init__(
        self,
        size: str = 'pcpvt_small',
        embed_dims: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        mlp_ratios: Sequence[float] | None = None,
        reductions: Sequence[int] = (8, 4, 2, 1),
        window_size: int = 7,
        in_channels: int = 3,
        drop_path: float = 0.2,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'Twins has sizes {list(_SIZES)}, not {size!r}')
        dims, depths = embed_dims or _SIZES[size][0], num_blocks or _SIZES[size][1]
        heads, ratios = num_heads or _SIZES[size][2], mlp_ratios or _SIZES[size][3]
        if len({len(dims), len(depths), len(heads), len(ratios), len(reductions)}) > 1:
            raise ValueError(
                f'each stage needs an entry in embed_dims={tuple(dims)}, num_blocks='
                f'{tuple(depths)}, num_heads={tuple(heads)}, mlp_ratios={tuple(ratios)} and '
                f'reductions={tuple(reductions)}')
        self.out_stages = check_out_stages(out_stages, first=2, last=len(dims) + 1)
        has_windows = size.startswith('svt')
        probs = iter(drop_path_probs(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        channels = in_channels
        for i in range(self.out_stages[-1] - 1):
            blocks = []
            for j in range(depths[i]):
                attn: nn.Module = ReducedAttention(dims[i], heads[i], reductions[i])
                if has_windows and j % 2 == 0:
                    attn = LocalAttention(dims[i], heads[i], window_size)
                blocks.append(TwinsBlock(attn, dims[i], ratios[i], next(probs)))
            self.stages.append(TwinsStage(channels, dims[i], 4 if i == 0 else 2, blocks))
            channels = dims[i]
        self.norms = nn.ModuleDict({
            str(s - 2): nn.LayerNorm(dims[s - 2], eps=1e-6) for s in self.out_stages})
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
                y = self.norms[str(stage - 2)](x.permute(0, 2, 3, 1))
                outs.append(y.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)
