"""BEiT and BEiT v2, and EVA: transformers pre-trained by predicting what masked patches held.

* Bao et al., BEiT, https://arxiv.org/abs/2106.08254
* Peng et al., BEiT v2, https://arxiv.org/abs/2208.06366
* Fang et al., EVA, https://arxiv.org/abs/2211.07636 (``with_position``, no relative bias or scale)

They differ from ViT in the attention: keys have no bias, and each layer learns a bias for the
offset of two patches.

B batch · N tokens · D embedding · H heads · h, w rows and columns of patches
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.attention import attend
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.patch_embed import PatchEmbed
from openlab.layers.position import resize_position, resize_square_position
from openlab.layers.transformer import MLP, LayerScale
from openlab.layers.window import bias_of_pairs, relative_position_index, resize_relative_table
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # embed_dim, depth, num_heads, mlp_ratio
    'base': (768, 12, 12, 4.0),
    'large': (1024, 24, 16, 4.0),
    'giant': (1408, 40, 16, 6144 / 1408),  # EVA-g
}


class KeyFreeBiasAttention(nn.Module):
    """Self-attention whose queries and values have a bias, but not its keys.

    Args:
        embed_dim: size of a token (D).
        num_heads: number of heads (H).
        grid: (h, w) that biases of the offset of two patches are learned for; ``None``: none.
    """

    index: Tensor

    def __init__(self, embed_dim: int, num_heads: int, grid: tuple[int, int] | None = None):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f'embed_dim={embed_dim} cannot be split over num_heads={num_heads}')
        self.num_heads, self.grid = num_heads, grid
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(embed_dim))
        self.v_bias = nn.Parameter(torch.zeros(embed_dim))
        self.proj = nn.Linear(embed_dim, embed_dim)
        if grid is not None:
            # After the offsets: class token to patch, patch to class token, class token to itself.
            num_offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
            self.position_bias = nn.Parameter(torch.zeros(num_offsets + 3, num_heads))
            self.register_buffer('index', _pair_index(grid), persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, H, N, D / H), of tokens (B, N, D)."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        return qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix tokens (B, 1 + h w, D), the class token and the patches of ``grid`` (h, w)."""
        q, k, v = self.split(x)
        bias = None if self.grid is None else self._bias(grid)
        x = attend(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _bias(self, grid: tuple[int, int]) -> Tensor:
        """Bias of each pair of tokens, (1, H, 1 + h w, 1 + h w)."""
        if grid == self.grid:
            return bias_of_pairs(self.position_bias.T, self.index)[None]
        table: Tensor = self.position_bias
        table = torch.cat([resize_relative_table(table[:-3], grid), table[-3:]])
        return bias_of_pairs(table.T, _pair_index(grid).to(table.device))[None]


def _pair_index(grid: tuple[int, int]) -> Tensor:
    """Row of the table for each pair of tokens of a grid, (1 + h w, 1 + h w)."""
    num = (2 * grid[0] - 1) * (2 * grid[1] - 1)
    index = F.pad(relative_position_index(grid), (1, 0, 1, 0))
    index[0, :], index[:, 0], index[0, 0] = num, num + 1, num + 2
    return index


class BEiTBlock(nn.Module):
    """Attention, then an MLP, each behind its norm and with a scaled residual around it."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float,
                 grid: tuple[int, int] | None, drop_path: float, layer_scale: float | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = KeyFreeBiasAttention(embed_dim, num_heads, grid)
        self.scale1 = LayerScale(embed_dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim, int(embed_dim * mlp_ratio))
        self.scale2 = LayerScale(embed_dim, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens (B, 1 + h w, D) to the same shape."""
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x), grid)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


_DROPS = (
    (r'relative_position_index$', 'computed from the grid'),
    (r'^mask_token$', 'only masked pre-training has masked patches'),
)
# Pre-training shares one table of biases between all blocks. Blocks by heads, of BEiT-B and -L:
_DEPTHS = {12: 12, 16: 24}


def _own_tables(table: Tensor) -> dict[str, Tensor]:
    """A table for each block, as they have it from fine-tuning on."""
    return {f'blocks.{i}.attn.position_bias': table.clone()
            for i in range(_DEPTHS.get(table.shape[1], 12))}


_SHARED_TABLE = ((r'^rel_pos_bias\.position_bias$', _own_tables),)
_TIMM_KEYS = (
    (r'^cls_token$', 'class_token'),
    (r'^pos_embed$', 'position'),
    (r'^fc_norm\.', 'norm.'),
    (r'\.gamma_([12])$', r'.scale\1.gamma'),
    (r'\.relative_position_bias_table$', '.position_bias'),
    (r'^head\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    *_TIMM_KEYS[:-1],
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^ln[12]\.', 'norm.'),
    (r'^layers\.', 'blocks.'),
    (r'\.ln([12])\.', r'.norm\1.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
)
# Published files and models of transformers 5 name the parts of a block differently.
_TRANSFORMERS_KEYS = (
    (r'^beit\.', ''),
    (r'^embeddings\.cls_token$', 'class_token'),
    (r'^embeddings\.position_embeddings$', 'position'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^(?:encoder\.layer|layers)\.', 'blocks.'),
    (r'\.attention\.(?:output\.dense|o_proj)\.', '.attn.proj.'),
    (r'\.attention\.(?:attention\.)?', '.attn.'),
    (r'^(blocks\.\d+)\.(?:attn\.)?relative_position_bias\.relative_position_bias_table$',
     r'\1.attn.position_bias'),
    (r'^(?:encoder\.relative|shared)_position_bias\.relative_position_bias_table$',
     'rel_pos_bias.position_bias'),
    (r'\.attn\.(?:query|q_proj)\.', '.attn.query.'),
    (r'\.attn\.(?:key|k_proj)\.', '.attn.key.'),
    (r'\.attn\.(?:value|v_proj)\.', '.attn.value.'),
    (r'\.attn\.query\.bias$', '.attn.q_bias'),
    (r'\.attn\.value\.bias$', '.attn.v_bias'),
    (r'\.lambda_([12])$', r'.scale\1.gamma'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'^(blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'^(?:pooler\.)?layernorm\.', 'norm.'),
    (r'^classifier\.', '../head.fc.'),
)


@MODELS.register_module()
class BEiT(nn.Module):
    """BEiT-B, BEiT-L and EVA-g, or any other size.

    Args:
        size: ``'base'``, ``'large'`` or ``'giant'`` (EVA): sets ``embed_dim``, ``depth``,
            ``num_heads`` and ``mlp_ratio`` where these are left out.
        patch_size: height and width of a patch in pixels.
        image_size: height and width that positions are learned for; for other images they are
            interpolated.
        in_channels: channels of the input.
        embed_dim: size of a token (D).
        depth: number of blocks.
        num_heads: heads of each attention.
        mlp_ratio: hidden size of the MLPs over ``embed_dim``.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        layer_scale: first value of learned scales of the branches; ``None`` does without.
        with_relative_bias: learn biases of the offset of two patches in each block.
        with_position: add learned positions to the tokens.
        output: what comes out: ``'class_token'`` or ``'mean'`` (of all patches) is one vector
            (B, D); ``'maps'`` is a map of patch tokens (B, D, h, w) for each of ``out_stages``.
        out_stages: blocks, counted from 1, whose maps come out where ``output='maps'``; by
            default the last one. It alone passes the final norm.

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each output map.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, _DROPS, transforms=_SHARED_TABLE,
               signature=(r'^cls_token$', r'^blocks\.0\.attn\.q_bias$')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, _DROPS, transforms=_SHARED_TABLE,
               signature=(r'^cls_token$', r'^layers\.0\.attn\.q_bias$')),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               ((r'relative_position_index$', 'computed from the grid'),
                (r'mask_token$|^lm_head\.', 'only masked pre-training has masked patches')),
               transforms=_SHARED_TABLE,
               merges=((r'\.attn\.(query|key|value)\.', '.attn.qkv.', ('query', 'key', 'value')),),
               signature=(r'embeddings\.cls_token$', r'\.0\.lambda_1$')),
    )

    def __init__(
        self,
        size: Literal['base', 'large', 'giant'] = 'base',
        patch_size: int = 16,
        image_size: int = 224,
        in_channels: int = 3,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        drop_path: float = 0.1,
        layer_scale: float | None = 0.1,
        with_relative_bias: bool = True,
        with_position: bool = False,
        output: Literal['class_token', 'mean', 'maps'] = 'mean',
        out_stages: Sequence[int] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'BEiT has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'embed_dim, depth and num_heads')
        if output not in ('class_token', 'mean', 'maps'):
            raise ValueError(f"output is 'class_token', 'mean' or 'maps', not {output!r}")
        if output != 'maps' and out_stages is not None:
            raise ValueError(f"out_stages needs output='maps', not {output!r}")
        if image_size % patch_size:
            raise ValueError(
                f'image_size={image_size} must be a multiple of patch_size={patch_size}')
        embed_dim, depth = embed_dim or _SIZES[size][0], depth or _SIZES[size][1]
        num_heads, mlp_ratio = num_heads or _SIZES[size][2], mlp_ratio or _SIZES[size][3]
        self.output = output
        self.out_stages = check_out_stages(out_stages or (depth,), first=1, last=depth)
        self.grid = (image_size // patch_size,) * 2

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if with_position:
            self.position = nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid), embed_dim))
        self.blocks = nn.ModuleList(
            BEiTBlock(embed_dim, num_heads, mlp_ratio, self.grid if with_relative_bias else None,
                      prob, layer_scale)
            for prob in drop_path_probs(drop_path, depth)[: self.out_stages[-1]])
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.out_channels = (embed_dim,) * len(self.out_stages)
        self.strides = (patch_size,) * len(self.out_stages)
        self._init_weights()
        self.register_load_state_dict_pre_hook(fit_positions)

    def _init_weights(self) -> None:
        init_transformer(self)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        if hasattr(self, 'position'):
            nn.init.trunc_normal_(self.position, std=0.02)
        # Deeper branches start smaller, as in the published code of BEiT.
        for i, block in enumerate(self.blocks, start=1):
            assert isinstance(block, BEiTBlock)
            block.attn.proj.weight.data.div_(math.sqrt(2 * i))
            block.mlp.fc2.weight.data.div_(math.sqrt(2 * i))

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters()
                if name in ('class_token', 'position') or name.endswith('position_bias')}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Vectors (B, D) or maps (B, D, h, w), by ``output``, of images x (B, 3, H, W)."""
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        if hasattr(self, 'position'):
            x = x + resize_position(self.position, self.grid, grid, 1)
        maps = []
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x, grid)
            if self.output == 'maps' and stage in self.out_stages:
                y = self.norm(x) if stage == len(self.blocks) else x
                maps.append(y[:, 1:].transpose(1, 2).unflatten(2, grid))
        if self.output == 'maps':
            return tuple(maps)
        return (self.norm(x[:, 0] if self.output == 'class_token' else x[:, 1:].mean(1)),)


def fit_positions(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate positions and biases of another (square) grid when weights are loaded."""
    grid: Any = module.grid
    for name, own in module.named_parameters():
        theirs = state.get(prefix + name)
        if theirs is None or theirs.shape == own.shape:
            continue
        if name == 'position':
            state[prefix + name] = resize_square_position(theirs, grid, 1)
        elif name.endswith('.position_bias'):
            table = resize_relative_table(theirs[:-3], grid)
            state[prefix + name] = torch.cat([table, theirs[-3:]])
