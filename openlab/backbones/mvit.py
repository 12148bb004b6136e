"""MViT v2: a pyramid whose attention pools queries, keys and values.

Li et al., MViTv2: Improved Multiscale Vision Transformers for Classification and Detection,
https://arxiv.org/abs/2112.01526

Idea: small convolutions pool queries, keys and values of each head; where those of the queries
have a stride, the map shrinks and its channels double. Positions enter as the offset of a key from
a query, rows and columns apart, multiplied with the query; the pooled query is added to what the
attention puts out. Stages are counted by their stride, from 2 (stride 4) to 5 (stride 32).

The models pre-trained on ImageNet-21k have a class token, which passes all pooling by.

B batch · H, W height and width of a map · N tokens: H W, and the class token before them · M tokens
after pooling · C, D channels in and out · h heads · c channels of a head
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.stages import block_places, check_out_stages
from openlab.layers.attention import attend
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.transformer import MLP
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[int, tuple[int, ...], int, bool]] = {
    # embed_dim, blocks of each stage, heads of the first, channels double within attention
    'tiny': (96, (1, 2, 5, 2), 1, True),
    'small': (96, (1, 2, 11, 2), 1, True),
    'base': (96, (2, 3, 16, 3), 1, True),
    'large': (144, (2, 6, 36, 4), 2, False),
    'huge': (192, (4, 8, 60, 8), 3, True),
}
_FIRST_KEY_STRIDE = 4


class HeadPool(nn.Module):
    """A depthwise convolution and a norm over the channels of a head, the same for all heads.

    Args:
        head_dim: channels of a head (c).
        stride: step of the convolution.
    """

    def __init__(self, head_dim: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(head_dim, head_dim, 3, stride, 1, groups=head_dim, bias=False)
        self.norm = nn.LayerNorm(head_dim, eps=1e-6)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Map tokens (B, h, N, c) of a map of ``size`` to (B, h, M, c) of the size that follows."""
        pooled, size = pool_places(x.flatten(0, 1), size, self.conv)
        return self.norm(pooled).unflatten(0, x.shape[:2]), size


class PooledAttention(nn.Module):
    """Attention among pooled queries, keys and values.

    Args:
        in_dim: channels that come in (C).
        out_dim: channels that go out (D).
        num_heads: number of heads (h).
        grid: (H, W) that positions are learned for.
        query_stride: step of the pooling of queries.
        key_stride: step of the pooling of keys and values.
    """

    def __init__(self, in_dim: int, out_dim: int, num_heads: int, grid: tuple[int, int],
                 query_stride: int, key_stride: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(in_dim, 3 * out_dim)
        head_dim = out_dim // num_heads
        self.pool_q = HeadPool(head_dim, query_stride)
        self.pool_k = HeadPool(head_dim, key_stride)
        self.pool_v = HeadPool(head_dim, key_stride)
        self.proj = nn.Linear(out_dim, out_dim)
        longest = [-(-side // min(query_stride, key_stride)) for side in grid]
        self.row_offsets = nn.Parameter(torch.empty(2 * longest[0] - 1, head_dim))
        self.column_offsets = nn.Parameter(torch.empty(2 * longest[1] - 1, head_dim))
        nn.init.trunc_normal_(self.row_offsets, std=0.02)
        nn.init.trunc_normal_(self.column_offsets, std=0.02)
        self.register_load_state_dict_pre_hook(_fit_offsets)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Map tokens (B, N, C) of a map of ``size`` to (B, M, D) of the size that follows."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        num_prefix = x.shape[1] - size[0] * size[1]
        (q, query_size), (k, key_size) = self.pool_q(q, size), self.pool_k(k, size)
        v, _ = self.pool_v(v, size)
        bias = self._bias(q[:, :, num_prefix:].unflatten(2, query_size), key_size)
        bias = F.pad(bias, (num_prefix, 0, num_prefix, 0))  # the class token is nowhere
        x = attend(q, k, v, attn_mask=bias) + q
        return self.proj(x.transpose(1, 2).flatten(2)), query_size

    def _bias(self, q: Tensor, key_size: tuple[int, int]) -> Tensor:
        """Products of queries (B, h, H, W, c) with offsets of keys, (B, h, queries, keys)."""
        rows = offsets_of(self.row_offsets, q.shape[2], key_size[0])
        columns = offsets_of(self.column_offsets, q.shape[3], key_size[1])
        bias = (torch.einsum('bhyxc,ykc->bhyxk', q, rows)[..., :, None]
                + torch.einsum('bhyxc,xkc->bhyxk', q, columns)[..., None, :])
        return bias.flatten(4).flatten(2, 3)


class MViTBlock(nn.Module):
    """Attention, then an MLP, each behind its norm and with a residual around it.

    Args:
        in_dim: channels that come in (C).
        out_dim: channels that go out (D).
        num_heads: heads of the attention.
        grid: (H, W) that positions are learned for.
        query_stride: step that the map shrinks by.
        key_stride: step of the pooling of keys and values.
        expands_in_attention: where the channels change, attention makes the new ones; otherwise
            the MLP does.
        drop_path: probability to leave out each of the two branches in training.
    """

    def __init__(self, in_dim: int, out_dim: int, num_heads: int, grid: tuple[int, int],
                 query_stride: int, key_stride: int, expands_in_attention: bool,
                 drop_path: float = 0.0):
        super().__init__()
        inner_dim = out_dim if expands_in_attention else in_dim
        self.expands_in_attention = expands_in_attention
        self.norm1 = nn.LayerNorm(in_dim, eps=1e-6)
        self.attn = PooledAttention(in_dim, inner_dim, num_heads, grid, query_stride, key_stride)
        self.norm2 = nn.LayerNorm(inner_dim, eps=1e-6)
        self.mlp = MLP(inner_dim, 4 * inner_dim, out_dim=out_dim)
        self.shortcut = nn.Linear(in_dim, out_dim) if in_dim != out_dim else None
        self.pool = None
        if query_stride > 1:
            self.pool = nn.MaxPool2d(query_stride + 1, query_stride, query_stride // 2)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Map tokens (B, N, C) of a map of ``size`` to (B, M, D) of the size that follows."""
        y = self.norm1(x)
        # Published weights take the shortcut behind the norm where it has a layer.
        if self.shortcut is not None and self.expands_in_attention:
            x = self.shortcut(y)
        if self.pool is not None:
            x, _ = pool_places(x, size, self.pool)
        y, size = self.attn(y, size)
        x = x + self.drop_path(y)
        y = self.norm2(x)
        if self.shortcut is not None and not self.expands_in_attention:
            x = self.shortcut(y)
        return x + self.drop_path(self.mlp(y)), size


def pool_places(x: Tensor, size: tuple[int, int],
                pool: nn.Module) -> tuple[Tensor, tuple[int, int]]:
    """Let ``pool`` see the tokens (B, N, C) of a map of ``size`` as the map that they are.

    Returns:
        Tokens (B, M, C), a class token before them as it was, and the size of their map.
    """
    num_prefix = x.shape[1] - size[0] * size[1]
    pooled = pool(x[:, num_prefix:].transpose(1, 2).unflatten(2, size))
    places = pooled.flatten(2).transpose(1, 2)
    if num_prefix:
        places = torch.cat([x[:, :num_prefix], places], dim=1)
    return places, (pooled.shape[2], pooled.shape[3])


def offsets_of(table: Tensor, num_queries: int, num_keys: int) -> Tensor:
    """Embedding of the offset of each key from each query along one axis.

    Args:
        table: embeddings of all offsets, the most negative first, (offsets, c); where it is made
            for another length of the axis, it is interpolated.
        num_queries: queries along the axis.
        num_keys: keys along the axis; the shorter of the two is stretched to the longer.

    Returns:
        (num_queries, num_keys, c).
    """
    table = _resize(table, 2 * max(num_queries, num_keys) - 1)
    query = torch.arange(num_queries, device=table.device) * max(num_keys / num_queries, 1.0)
    key = torch.arange(num_keys, device=table.device) * max(num_queries / num_keys, 1.0)
    last = (num_keys - 1) * max(num_queries / num_keys, 1.0)
    return table[(query[:, None] - key[None, :] + last).long()]


def _resize(table: Tensor, length: int) -> Tensor:
    """Interpolate embeddings (offsets, c) of offsets for another number of them."""
    if len(table) == length:
        return table
    return F.interpolate(table.float().T[None], length, mode='linear')[0].T.to(table.dtype)


_BLOCK_KEYS = (
    (r'\.attn\.pool_([qkv])\.', r'.attn.pool_\1.conv.'),
    (r'\.attn\.norm_([qkv])\.', r'.attn.pool_\1.norm.'),
    (r'\.rel_pos_h$', '.row_offsets'),
    (r'\.rel_pos_w$', '.column_offsets'),
)
_OPENMMLAB_KEYS = (
    *_BLOCK_KEYS,
    (r'^patch_embed\.projection\.', 'patch_embed.'),
    (r'^(blocks\.\d+)\.proj\.', r'\1.shortcut.'),
    *((rf'^norm{i}\.', f'norms.{i + 2}.') for i in range(4)),
)


def _timm_maps() -> Iterator[KeyMap]:
    """A map for each number of blocks: timm counts blocks anew in each stage."""
    for depths in sorted({depths for _, depths, _, _ in _SIZES.values()}, reverse=True):
        yield KeyMap(
            'timm',
            (
                *_BLOCK_KEYS,
                *((rf'^stages\.{stage}\.blocks\.{place}\.', f'blocks.{number}.')
                  for stage, place, number in block_places(depths)),
                (r'^patch_embed\.proj\.', 'patch_embed.'),
                (r'^cls_token$', 'class_token'),
                (r'\.shortcut_proj_(?:attn|mlp)\.', '.shortcut.'),
                (r'^norm\.', 'norms.5.'),
                (r'^head\.fc\.', '../head.fc.'),
            ),
            # Names of a deep network hold those of a shallow one, so that the deepest comes first.
            signature=(rf'^stages\.2\.blocks\.{depths[2] - 1}\.attn\.rel_pos_h$',))


@MODELS.register_module()
class MViT(nn.Module):
    """MViTv2-T, -S, -B, -L and -H, or any other size.

    Args:
        size: ``'tiny'``, ``'small'``, ``'base'``, ``'large'`` or ``'huge'``: sets the next four
            where left out.
        embed_dim: channels of the first stage; they double from stage to stage.
        num_blocks: blocks of each stage.
        num_heads: heads of the first stage; they double from stage to stage.
        expands_in_attention: the first block of a stage doubles the channels in its attention;
            otherwise the last block of the stage before does so in its MLP. Published weights of
            size ``'large'`` do the latter, those of it with a class token the former.
        image_size: (height, width), or one number for both, that positions are learned for.
            Images of other sizes work as well: positions are then interpolated.
        in_channels: channels of the input.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        with_class_token: put a class token before the others.
        output: ``'maps'`` are the maps of ``out_stages``; ``'class_token'`` is one vector (B, D).
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32); each
            map passes a norm of its own. Sizes of maps are rounded up.

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each output map.
    """

    weights = (
        *_timm_maps(),
        KeyMap('openmmlab', _OPENMMLAB_KEYS,
               signature=(r'^patch_embed\.projection\.', r'^blocks\.0\.attn\.rel_pos_h$')),
    )

    def __init__(
        self,
        size: Literal['tiny', 'small', 'base', 'large', 'huge'] = 'tiny',
        embed_dim: int | None = None,
        num_blocks: Sequence[int] | None = None,
        num_heads: int | None = None,
        expands_in_attention: bool | None = None,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        drop_path: float = 0.1,
        with_class_token: bool = False,
        output: Literal['maps', 'class_token'] = 'maps',
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'MViT has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'embed_dim, num_blocks and num_heads')
        embed_dim, depths = embed_dim or _SIZES[size][0], tuple(num_blocks or _SIZES[size][1])
        heads = num_heads or _SIZES[size][2]
        if expands_in_attention is None:
            expands_in_attention = _SIZES[size][3]
        if embed_dim % heads:
            raise ValueError(f'embed_dim={embed_dim} cannot be split over num_heads={heads}')
        if output not in ('maps', 'class_token'):
            raise ValueError(f"output is 'maps' or 'class_token', not {output!r}")
        self.out_stages = check_out_stages(out_stages, first=2, last=len(depths) + 1)
        if output == 'class_token' and (not with_class_token or len(self.out_stages) > 1):
            raise ValueError("output='class_token' needs with_class_token=True and one of "
                             f'out_stages, not {with_class_token} and {self.out_stages}')
        self.output = output
        self.class_token: nn.Parameter | None = None
        if with_class_token:
            self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
            nn.init.trunc_normal_(self.class_token, std=0.02)
        self.patch_embed = nn.Conv2d(in_channels, embed_dim, 7, 4, 3)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        grid = (-(-height // 4), -(-width // 4))
        probs = drop_path_probs(drop_path, sum(depths))
        self.stage_ends: dict[int, int] = {}
        widths: dict[int, int] = {}
        self.blocks = nn.ModuleList()
        dims = [embed_dim * 2**i for i in range(len(depths))]
        channels = embed_dim
        for stage, place, number in block_places(depths[: self.out_stages[-1] - 1]):
            is_last = place == depths[stage] - 1
            early = is_last and not expands_in_attention  # takes on the next stage's channels
            out = dims[min(stage + early, len(dims) - 1)]
            stride = 2 if place == 0 and stage > 0 else 1
            self.blocks.append(MViTBlock(
                channels, out, heads * 2**stage, grid, stride,
                max(_FIRST_KEY_STRIDE // 2**stage, 1), expands_in_attention, probs[number]))
            grid = (-(-grid[0] // stride), -(-grid[1] // stride))
            channels = out
            if is_last:
                self.stage_ends[number] = stage + 2
                widths[stage + 2] = out
        self.out_channels = tuple(widths[s] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        self.norms = nn.ModuleDict({
            str(s): nn.LayerNorm(c, eps=1e-6) for s, c in zip(self.out_stages, self.out_channels)})
        init_transformer(self)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters()
                if name.endswith('_offsets') or name == 'class_token'}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, D, H / stride, W / stride) or a vector (B, D), from x (B, 3, H, W)."""
        x = self.patch_embed(x)
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        outs = []
        for number, block in enumerate(self.blocks):
            x, size = block(x, size)
            stage = self.stage_ends.get(number)
            if stage in self.out_stages:
                y = self.norms[str(stage)](x)
                places = y[:, y.shape[1] - size[0] * size[1]:]
                outs.append(y[:, 0] if self.output == 'class_token' else
                            places.transpose(1, 2).unflatten(2, size).contiguous())
        return tuple(outs)


def _fit_offsets(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate offsets learned for images of another size when weights are loaded."""
    assert isinstance(module, PooledAttention)
    for name in ('row_offsets', 'column_offsets'):
        table = state.get(prefix + name)
        if table is not None and table.shape[1:] == getattr(module, name).shape[1:]:
            state[prefix + name] = _resize(table, len(getattr(module, name)))
