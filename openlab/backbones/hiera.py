"""Hiera: a pyramid of plain transformer blocks, pre-trained by masking whole windows.

* Ryali et al., Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles,
  https://arxiv.org/abs/2306.00989
* Positions of windows: Bolya et al., Window Attention is Bugged, https://arxiv.org/abs/2311.05613

Idea: masked pre-training teaches what other pyramids build in, so that nothing is left but
attention and MLPs. Early stages attend within windows ("mask units") of 32 pixels, late ones to the
whole map; between stages the queries are pooled, two by two, by their maximum.

Stages are counted by their stride, from 2 (stride 4) to 5 (stride 32). The map is cut into its mask
units once; each unit has 8 x 8 tokens at first and a quarter of them after each pooling.

B batch · H, W height and width of a map · C, D channels in and out · n units · T tokens of a unit ·
h heads
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openlab.backbones.stages import block_places, check_out_stages
from openlab.layers.attention import attend
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.position import resize_position, resize_square_position
from openlab.layers.transformer import MLP, LayerScale
from openlab.layers.window import merge_windows, partition_windows
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # embed_dim, blocks of each stage, heads of the first stage
    'tiny': (96, (1, 2, 7, 2), 1),
    'small': (96, (1, 2, 11, 2), 1),
    'base': (96, (2, 3, 16, 3), 1),
    'base_plus': (112, (2, 3, 16, 3), 2),
    'large': (144, (2, 6, 36, 4), 2),
    'huge': (256, (2, 6, 36, 4), 4),
}
_UNIT = 8  # side of a mask unit, in tokens of stride 4
_HAS_WINDOWS = (True, True, False, False)


class PoolingAttention(nn.Module):
    """Attention within units or over the whole map, whose queries may be pooled.

    Args:
        in_dim: size of a token that comes in (C).
        out_dim: size of a token that goes out (D).
        num_heads: number of heads (h).
        within_units: tokens see those of their unit only.
        with_pool: replace two by two queries by their maximum, which halves the map.
    """

    def __init__(self, in_dim: int, out_dim: int, num_heads: int, within_units: bool,
                 with_pool: bool):
        super().__init__()
        self.num_heads, self.within_units, self.with_pool = num_heads, within_units, with_pool
        self.qkv = nn.Linear(in_dim, 3 * out_dim)
        self.proj = nn.Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n, T, C) to (B, n, T, D), or with pooling to (B, n, T / 4, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.with_pool:
            q = _pool(q)
        shape, first = q.shape, 0 if self.within_units else 1
        q, k, v = (y.flatten(first, first + 1).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
                   for y in (q, k, v))
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(shape))


class HieraBlock(nn.Module):
    """Attention, then an MLP, each behind its norm; the first block of a stage also shrinks.

    Args:
        in_dim: size of a token that comes in (C).
        out_dim: size of a token that goes out (D); where it differs, the residual is projected
            and pooled as well.
        num_heads: heads of the attention.
        within_units: see ``PoolingAttention``.
        layer_scale: first value of a learned scale of both branches; ``None`` does without.
        with_projection: project the residual of a shrinking block; without, its maxima and its
            means stand side by side.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, in_dim: int, out_dim: int, num_heads: int, within_units: bool,
                 layer_scale: float | None = None, with_projection: bool = True,
                 drop_path: float = 0.0):
        super().__init__()
        self.shrinks = in_dim != out_dim
        self.norm1 = nn.LayerNorm(in_dim, eps=1e-6)
        self.proj = nn.Linear(in_dim, out_dim) if self.shrinks and with_projection else None
        self.attn = PoolingAttention(in_dim, out_dim, num_heads, within_units, self.shrinks)
        self.norm2 = nn.LayerNorm(out_dim, eps=1e-6)
        self.mlp = MLP(out_dim, 4 * out_dim)
        self.scale1, self.scale2 = (
            LayerScale(out_dim, layer_scale) if layer_scale else nn.Identity() for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n, T, C) to the same shape, or where it shrinks to (B, n, T / 4, D)."""
        y = self.norm1(x)
        if self.proj is not None:
            x = _pool(self.proj(y))
        elif self.shrinks:
            x = torch.cat([_pool(x), _cells(x).mean((3, 5)).flatten(2, 3)], dim=-1)
        x = x + self.drop_path(self.scale1(self.attn(y)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


def _cells(x: Tensor) -> Tensor:
    """View units (B, n, T, C) as cells of two by two, (B, n, S / 2, 2, S / 2, 2, C), S^2 = T."""
    half = math.isqrt(x.shape[2]) // 2
    return x.unflatten(2, (half, 2, half, 2))


def _pool(x: Tensor) -> Tensor:
    """Maxima of cells of two by two, (B, n, T, C) to (B, n, T / 4, C).

    Two steps over whole rows of channels; a reduction over both axes takes many times longer.
    """
    cells = _cells(x)
    rows = torch.maximum(cells[:, :, :, 0], cells[:, :, :, 1])
    return torch.maximum(rows[:, :, :, :, 0], rows[:, :, :, :, 1]).flatten(2, 3)


def _as_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put units (B, n, T, C) of a map of ``grid`` first tokens together, (B, C, H, W)."""
    side = math.isqrt(x.shape[2])
    shape = (grid[0] * side // _UNIT, grid[1] * side // _UNIT)
    x = merge_windows(x.flatten(0, 1), (side, side), shape)
    return x.permute(0, 3, 1, 2).contiguous()


def _as_tokens(position: Tensor) -> Tensor:
    """Positions that timm keeps as a map (1, D, h, w), as tokens (1, h w, D)."""
    return position.flatten(2).transpose(1, 2) if position.ndim == 4 else position


_TIMM_KEYS = (
    (r'^patch_embed\.proj\.', 'patch_embed.'),
    (r'^pos_embed$', 'position'),
    (r'^pos_embed_win$', 'window_position'),
    (r'\.ls([12])\.gamma$', r'.scale\1.gamma'),
    (r'^head\.norm\.', 'norms.5.'),
    (r'^head\.fc\.', '../head.fc.'),
)


def _transformers_maps() -> Iterator[KeyMap]:
    """A map for each number of blocks: transformers count blocks anew in each stage."""
    for depths in sorted({depths for _, depths, _ in _SIZES.values()}, reverse=True):
        deepest = rf'encoder\.stages\.2\.layers\.{depths[2] - 1}\.'
        yield KeyMap(
            'transformers',
            (
                (r'^hiera\.', ''),
                (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.'),
                (r'^embeddings\.position_embeddings$', 'position'),
                *((rf'^encoder\.stages\.{stage}\.layers\.{place}\.', f'blocks.{number}.')
                  for stage, place, number in block_places(depths)),
                (r'\.layernorm_before\.', '.norm1.'),
                (r'\.layernorm_after\.', '.norm2.'),
                (r'^pooler\.layernorm\.', 'norms.5.'),
                (r'^encoder_norm\.', 'norms.5.'),
                (r'^classifier\.', '../head.fc.'),
            ),
            drops=((r'^(decoder|multiscale_fusion)\.', 'only masked pre-training decodes'),),
            # Names of a deep network hold those of a shallow one, so that the deepest comes first.
            signature=(deepest,))


@MODELS.register_module()
class Hiera(nn.Module):
    """Hiera-T, -S, -B, -B+, -L and -H, or any other size.

    Args:
        size: ``'tiny'``, ``'small'``, ``'base'``, ``'base_plus'``, ``'large'`` or ``'huge'``: sets
            ``embed_dim``, ``num_blocks`` and ``num_heads`` where these are left out.
        image_size: (height, width), or one number for both, that positions are learned for.
            Images of other sizes, multiples of 32, work as well: positions are interpolated.
        in_channels: channels of the input.
        embed_dim: size of a token in the first stage; it doubles from stage to stage.
        num_blocks: blocks of each stage.
        num_heads: heads of the first stage; they double from stage to stage.
        with_window_position: learn positions within a window besides those on the map, which then
            are ``position_grid`` and always interpolated: other sizes of image do less harm.
        position_grid: side of the grid of positions where ``with_window_position``.
        layer_scale: first value of learned scales of the branches; ``None`` does without.
        with_projection: see ``HieraBlock``.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        output: ``'mean'`` is one vector (B, D), the last map averaged and then normalised, as
            published classifiers have it; ``'maps'`` are the normalised maps of ``out_stages``.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each output map.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS,
               transforms=((r'^(window_)?position$', _as_tokens),),
               signature=(r'^pos_embed$', r'^patch_embed\.proj\.',
                          r'^blocks\.\d+\.proj\.|^pos_embed_win$')),
        *_transformers_maps(),
    )

    def __init__(
        self,
        size: Literal['tiny', 'small', 'base', 'base_plus', 'large', 'huge'] = 'base',
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dim: int | None = None,
        num_blocks: Sequence[int] | None = None,
        num_heads: int | None = None,
        with_window_position: bool = False,
        position_grid: int = 14,
        layer_scale: float | None = None,
        with_projection: bool = True,
        drop_path: float = 0.1,
        output: Literal['mean', 'maps'] = 'maps',
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'Hiera has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'embed_dim, num_blocks and num_heads')
        if output not in ('mean', 'maps'):
            raise ValueError(f"output is 'mean' or 'maps', not {output!r}")
        embed_dim, depths = embed_dim or _SIZES[size][0], num_blocks or _SIZES[size][1]
        heads = num_heads or _SIZES[size][2]
        if not 1 <= len(depths) <= len(_HAS_WINDOWS):
            raise ValueError(f'Hiera has 1 to 4 stages, not num_blocks={tuple(depths)}')
        self.output = output
        self.out_stages = check_out_stages(out_stages, first=2, last=len(depths) + 1)
        if output == 'mean' and len(self.out_stages) > 1:
            raise ValueError(f"output='mean' gives one stage, not {self.out_stages}")
        self.grid = (position_grid, position_grid) if with_window_position else _grid(image_size)

        self.patch_embed = nn.Conv2d(in_channels, embed_dim, 7, 4, 3)
        self.position = nn.Parameter(torch.empty(1, math.prod(self.grid), embed_dim))
        self.window_position: nn.Parameter | None = None
        if with_window_position:
            self.window_position = nn.Parameter(torch.empty(1, _UNIT**2, embed_dim))
        depths = depths[: self.out_stages[-1] - 1]
        probs = drop_path_probs(drop_path, sum(num_blocks or _SIZES[size][1]))
        self.stage_ends = tuple(itertools.accumulate(depths))
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(depths):
            dim = embed_dim * 2**stage
            for i in range(depth):
                is_first = i == 0 and stage > 0
                # A shrinking block still attends as the stage before it.
                source = stage - is_first
                self.blocks.append(HieraBlock(
                    dim // 2 if is_first else dim, dim, heads * 2**stage, _HAS_WINDOWS[source],
                    layer_scale, with_projection, probs[len(self.blocks)]))
        self.out_channels = tuple(embed_dim * 2 ** (s - 2) for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        self.norms = nn.ModuleDict({
            str(s): nn.LayerNorm(d, eps=1e-6) for s, d in zip(self.out_stages, self.out_channels)})
        self._init_weights()
        self.register_load_state_dict_pre_hook(_fit_position)

    def _init_weights(self) -> None:
        init_transformer(self)
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.window_position is not None:
            nn.init.trunc_normal_(self.window_position, std=0.02)
        with torch.no_grad():
            for depth, block in enumerate(self.blocks, start=1):  # as in BEiT
                assert isinstance(block, HieraBlock)
                block.attn.proj.weight /= math.sqrt(2 * depth)
                block.mlp.fc2.weight /= math.sqrt(2 * depth)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {'position', 'window_position'} & {name for name, _ in self.named_parameters()}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, D, H / stride, W / stride) or a vector (B, D), from x (B, 3, H, W)."""
        if x.shape[2] % 32 or x.shape[3] % 32:
            raise ValueError(f'image height and width must be multiples of 32, not {x.shape[2]} x '
                             f'{x.shape[3]}; resize or pad (pad_divisor of the preprocessor)')
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        grid = (x.shape[1], x.shape[2])
        num_units = grid[0] // _UNIT * (grid[1] // _UNIT)
        x = partition_windows(x + self._positions(grid), (_UNIT, _UNIT))
        x = x.unflatten(0, (-1, num_units))
        maps = {}
        for i, block in enumerate(self.blocks, start=1):
            x = block(x)
            if i in self.stage_ends:
                maps[self.stage_ends.index(i) + 2] = x
        if self.output == 'mean':
            return tuple(self.norms[str(s)](maps[s].mean((1, 2))) for s in self.out_stages)
        return tuple(_as_map(self.norms[str(s)](maps[s]), grid) for s in self.out_stages)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions of a map of ``grid`` tokens, (1, H, W, C)."""
        position = resize_position(self.position, self.grid, grid).unflatten(1, grid)
        if self.window_position is None:
            return position
        window = self.window_position.unflatten(1, (_UNIT, _UNIT))
        return position + window.repeat(1, grid[0] // _UNIT, grid[1] // _UNIT, 1)


def _grid(image_size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % 32 or width % 32:
        raise ValueError(f'image_size={image_size} must be a multiple of 32')
    return height // 4, width // 4


def _fit_position(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate positions learned for another (square) grid when weights are loaded."""
    assert isinstance(module, Hiera)
    name = f'{prefix}position'
    if name in state:
        state[name] = resize_square_position(state[name], module.grid)
