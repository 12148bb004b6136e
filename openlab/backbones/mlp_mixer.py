"""MLP-Mixer: an MLP over all patches for each channel, then one over channels for each patch.

Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision,
https://arxiv.org/abs/2105.01601

The first MLP has a weight for each patch, so that the size of images is fixed.

B batch · N tokens · D embedding · H, W image height and width · h, w rows and columns of patches
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.patch_embed import PatchEmbed
from openlab.layers.transformer import MLP
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # table 1: embed_dim, depth
    'small': (512, 8),
    'base': (768, 12),
    'large': (1024, 24),
    'huge': (1280, 32),
}


class MixerBlock(nn.Module):
    """Mix tokens, then channels, each behind its norm and with a residual around it.

    Args:
        embed_dim: size of a token (D).
        num_tokens: number of tokens (N).
        token_dim: hidden size of the MLP over tokens.
        channel_dim: hidden size of the MLP over channels.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, embed_dim: int, num_tokens: int, token_dim: int, channel_dim: int,
                 dropout: float = 0.0, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.token_mlp = MLP(num_tokens, token_dim, dropout)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.channel_mlp = MLP(embed_dim, channel_dim, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to the same shape."""
        mixed = self.token_mlp(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.channel_mlp(self.norm2(x)))


_TIMM_KEYS = (
    (r'^stem\.', 'patch_embed.'),
    (r'\.mlp_(token|channel)s\.', r'.\1_mlp.'),
    (r'^head\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^ln1\.', 'norm.'),
    (r'^layers\.', 'blocks.'),
    (r'\.ln([12])\.', r'.norm\1.'),
    (r'\.(token|channel)_mix\.layers\.0\.0\.', r'.\1_mlp.fc1.'),
    (r'\.(token|channel)_mix\.layers\.1\.', r'.\1_mlp.fc2.'),
)


@MODELS.register_module()
class MLPMixer(nn.Module):
    """Mixer-S, -B, -L and -H, or any other size.

    Args:
        size: ``'small'``, ``'base'``, ``'large'`` or ``'huge'``: sets ``embed_dim`` and ``depth``
            where left out.
        patch_size: height and width of a patch in pixels.
        image_size: height and width of images; others are refused.
        in_channels: channels of the input.
        embed_dim: size of a token (D).
        depth: number of blocks.
        mlp_ratios: hidden sizes of the MLPs over tokens and over channels, over ``embed_dim``.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        out_stages: blocks, counted from 1, whose maps come out; by default the last one. It alone
            passes the final norm.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, signature=(r'^blocks\.0\.mlp_tokens\.',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^layers\.0\.token_mix\.',)),
    )

    def __init__(
        self,
        size: Literal['small', 'base', 'large', 'huge'] = 'base',
        patch_size: int = 16,
        image_size: int = 224,
        in_channels: int = 3,
        embed_dim: int | None = None,
        depth: int | None = None,
        mlp_ratios: tuple[float, float] = (0.5, 4.0),
        dropout: float = 0.0,
        drop_path: float = 0.0,
        out_stages: Sequence[int] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'MLPMixer has sizes {list(_SIZES)}, not {size!r}; for another one '
                             'give embed_dim and depth')
        if image_size % patch_size:
            raise ValueError(
                f'image_size={image_size} must be a multiple of patch_size={patch_size}')
        embed_dim, depth = embed_dim or _SIZES[size][0], depth or _SIZES[size][1]
        self.image_size = image_size
        self.out_stages = check_out_stages(out_stages or (depth,), first=1, last=depth)
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        token_dim, channel_dim = (int(ratio * embed_dim) for ratio in mlp_ratios)
        self.blocks = nn.ModuleList(
            MixerBlock(embed_dim, (image_size // patch_size) ** 2, token_dim, channel_dim, dropout,
                       prob)
            for prob in drop_path_probs(drop_path, depth)[: self.out_stages[-1]])
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.out_channels = (embed_dim,) * len(self.out_stages)
        self.strides = (patch_size,) * len(self.out_stages)
        init_transformer(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, D, h, w) of images (B, 3, H, W)."""
        if x.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(f'this MLPMixer takes images of image_size={self.image_size}, not '
                             f'{x.shape[2]} x {x.shape[3]}; resize them')
        x = self.patch_embed(x)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        maps = []
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x)
            if stage in self.out_stages:
                y = self.norm(x) if stage == len(self.blocks) else x
                maps.append(y.transpose(1, 2).unflatten(2, grid))
        return tuple(maps)
