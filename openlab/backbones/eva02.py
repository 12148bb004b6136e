"""EVA-02: a vision transformer with rotary positions and gated MLPs.

Fang et al., EVA-02: A Visual Representation for Neon Genesis, https://arxiv.org/abs/2303.11331

Each patch has a learned position at the entrance and is rotated by its row and column in every
attention; angles of other image sizes are stretched to those of pre-training at 224 px.

B batch · N tokens · D embedding · H heads · E dimension of one head · h, w rows and columns
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from openlab.backbones.beit import KeyFreeBiasAttention, fit_positions
from openlab.backbones.stages import check_out_stages
from openlab.layers.attention import attend
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.patch_embed import PatchEmbed
from openlab.layers.position import resize_position
from openlab.layers.transformer import GatedMLP
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # table 2: embed_dim, depth, num_heads, normalise gated values
    'tiny': (192, 12, 3, False),
    'small': (384, 12, 6, False),
    'base': (768, 12, 12, True),
    'large': (1024, 24, 16, True),
}


class RotaryGridAttention(KeyFreeBiasAttention):
    """Self-attention whose queries and keys are rotated by the place of their patch.

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads (H).
        with_norm: normalise what was mixed, before the last layer.
    """

    def __init__(self, embed_dim: int, num_heads: int, with_norm: bool = False):
        super().__init__(embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if with_norm else nn.Identity()

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Mix tokens (B, 1 + h w, D); ``angles`` are cosine and sine of patches, (h w, E)."""
        q, k, v = self.split(x)
        q, k = (torch.cat([t[:, :, :1], rotate_pairs(t[:, :, 1:], *angles)], 2) for t in (q, k))
        x = attend(q, k, v)
        return self.proj(self.norm(x.transpose(1, 2).flatten(2)))


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels of (B, H, N, E)."""
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def grid_angles(grid: tuple[int, int], head_dim: int, trained_grid: tuple[int, int],
                device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine for each patch, (h w, E): half of the channels by row, half by column."""
    num_bands = head_dim // 4
    bands = 10_000.0 ** (-torch.arange(num_bands, device=device) / num_bands)
    sides = [torch.arange(n, device=device) / n * trained for n, trained in zip(grid, trained_grid)]
    places = torch.cartesian_prod(*sides)
    angle = (places[:, :, None] * bands).flatten(1).repeat_interleave(2, dim=1)
    return angle.cos(), angle.sin()


class EVA02Block(nn.Module):
    """Rotary attention, then a gated MLP, each behind its norm and with a residual around it."""

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, with_mlp_norm: bool,
                 drop_path: float, with_attention_norm: bool = False):
        super().__init__()
        norm = {'type': nn.LayerNorm, 'eps': 1e-6}
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = RotaryGridAttention(embed_dim, num_heads, with_attention_norm)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = GatedMLP(embed_dim, hidden_dim, norm=norm if with_mlp_norm else None)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Map tokens (B, 1 + h w, D) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), angles))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _without_key_bias(bias: Tensor) -> dict[str, Tensor]:
    query, _, value = bias.chunk(3)
    return {'.attn.q_bias': query, '.attn.v_bias': value}


_TIMM_KEYS = (
    (r'^cls_token$', 'class_token'),
    (r'^pos_embed$', 'position'),
    (r'^fc_norm\.', 'norm.'),
    (r'\.attn\.([qv])_proj\.bias$', r'.attn.\1_bias'),
    (r'^head\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'^cls_token$', 'class_token'),
    (r'^pos_embed$', 'position'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^ln[12]\.', 'norm.'),
    (r'^layers\.', 'blocks.'),
    (r'\.mlp\.w12\.', '.mlp.fc1.'),
    (r'\.mlp\.w3\.', '.mlp.fc2.'),
)
_MERGES = (
    (r'\.attn\.([qkv])_proj\.weight$', '.attn.qkv.weight', ('q', 'k', 'v')),
    (r'\.mlp\.fc1_([gx])\.', '.mlp.fc1.', ('g', 'x')),
)


@MODELS.register_module()
class EVA02(nn.Module):
    """EVA-02-Ti, -S, -B and -L, or any other size.

    Args:
        size: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dim``, ``depth``,
            ``num_heads`` and ``with_mlp_norm`` where these are left out.
        patch_size: height and width of a patch in pixels.
        image_size: height and width that positions are learned for; for other images they are
            interpolated.
        in_channels: channels of the input.
        embed_dim: size of a token (D).
        depth: number of blocks.
        num_heads: heads of each attention.
        mlp_ratio: hidden size of the gated MLPs over ``embed_dim``.
        with_mlp_norm: normalise the gated values.
        with_attention_norm: normalise in the attention, before its last layer (EVA-02-CLIP).
        trained_grid: rows and columns of patches in pre-training; angles are stretched to it.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        output: what comes out: ``'class_token'`` or ``'mean'`` (of all patches) is one vector
            (B, D); ``'maps'`` is a map of patch tokens (B, D, h, w) for each of ``out_stages``.
        out_stages: blocks, counted from 1, whose maps come out where ``output='maps'``; by
            default the last one. It alone passes the final norm.

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each output map.
    """

    cos: Tensor
    sin: Tensor
    weights = (
        KeyMap('timm', _TIMM_KEYS, merges=_MERGES,
               signature=(r'^blocks\.0\.attn\.(?:q_bias|q_proj\.bias)$', r'\.mlp\.fc1')),
        # The weights that OpenMMLab took over have no bias of keys; its models hold zeros there.
        KeyMap('openmmlab', _OPENMMLAB_KEYS,
               drops=((r'rope\.freqs_(cos|sin)$', 'computed from the grid'),),
               transforms=((r'\.attn\.qkv\.bias$', _without_key_bias),),
               signature=(r'^layers\.0\.mlp\.w12\.', r'^layers\.0\.norm1\.')),
    )

    def __init__(
        self,
        size: Literal['tiny', 'small', 'base', 'large'] = 'base',
        patch_size: int = 14,
        image_size: int = 336,
        in_channels: int = 3,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 8 / 3,
        with_mlp_norm: bool | None = None,
        with_attention_norm: bool = False,
        trained_grid: tuple[int, int] = (16, 16),
        drop_path: float = 0.1,
        output: Literal['class_token', 'mean', 'maps'] = 'mean',
        out_stages: Sequence[int] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'EVA02 has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'embed_dim, depth and num_heads')
        if output not in ('class_token', 'mean', 'maps'):
            raise ValueError(f"output is 'class_token', 'mean' or 'maps', not {output!r}")
        if output != 'maps' and out_stages is not None:
            raise ValueError(f"out_stages needs output='maps', not {output!r}")
        if image_size % patch_size:
            raise ValueError(
                f'image_size={image_size} must be a multiple of patch_size={patch_size}')
        embed_dim, depth = embed_dim or _SIZES[size][0], depth or _SIZES[size][1]
        num_heads = num_heads or _SIZES[size][2]
        with_mlp_norm = _SIZES[size][3] if with_mlp_norm is None else with_mlp_norm
        self.output, self.trained_grid = output, (trained_grid[0], trained_grid[1])
        self.head_dim = embed_dim // num_heads
        self.out_stages = check_out_stages(out_stages or (depth,), first=1, last=depth)
        self.grid = (image_size // patch_size,) * 2

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid), embed_dim))
        # Compiled code would compute them anew for every query and key.
        for name, angles in zip(('cos', 'sin'),
                                grid_angles(self.grid, self.head_dim, self.trained_grid)):
            self.register_buffer(name, angles, persistent=False)
        self.blocks = nn.ModuleList(
            EVA02Block(embed_dim, num_heads, int(embed_dim * mlp_ratio), with_mlp_norm, prob,
                       with_attention_norm)
            for prob in drop_path_probs(drop_path, depth)[: self.out_stages[-1]])
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.out_channels = (embed_dim,) * len(self.out_stages)
        self.strides = (patch_size,) * len(self.out_stages)
        init_transformer(self)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        self.register_load_state_dict_pre_hook(fit_positions)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {'class_token', 'position'}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Vectors (B, D) or maps (B, D, h, w), by ``output``, of images x (B, 3, H, W)."""
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x + resize_position(self.position, self.grid, grid, 1)
        angles = self.cos, self.sin
        if grid != self.grid:
            angles = grid_angles(grid, self.head_dim, self.trained_grid, x.device)
        maps = []
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x, angles)
            if self.output == 'maps' and stage in self.out_stages:
                y = self.norm(x) if stage == len(self.blocks) else x
                maps.append(y[:, 1:].transpose(1, 2).unflatten(2, grid))
        if self.output == 'maps':
            return tuple(maps)
        return (self.norm(x[:, 0] if self.output == 'class_token' else x[:, 1:].mean(1)),)
