"""Swin transformer: attention within windows that shift from block to block.

* Version 1: Liu et al., https://arxiv.org/abs/2103.14030
* Version 2: Liu et al., Swin Transformer V2, https://arxiv.org/abs/2111.09883

Idea: tokens look at each other only within small windows; every second block rolls the map by
half a window, so that windows exchange what they know; four tokens become one between stages.
Version 2 normalises after each branch, compares directions of queries and keys (cosine), and
computes the bias of an offset by a small network, so that windows may grow after pre-training.

Stages are counted by their stride as in the other families: stage k has stride 2^k, k from 2 to 5.

B batch · H, W height and width of a map · C channels · n windows · T tokens of a window · h heads
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
from openlab.layers.transformer import MLP
from openlab.layers.window import (
    bias_of_pairs,
    merge_windows,
    pad_to_windows,
    partition_windows,
    relative_position_index,
    resize_relative_table,
    shifted_window_mask,
)
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # embed_dim, num_blocks, num_heads
    'tiny': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    'small': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    'base': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    'large': (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


class WindowAttention(nn.Module):
    """Attention within a window, biased by the offset of the two tokens (version 1).

    Args:
        embed_dim: size of a token (C).
        window_size: height and width of a window.
        num_heads: number of heads (h).
    """

    index: Tensor

    def __init__(self, embed_dim: int, window_size: tuple[int, int], num_heads: int):
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        num_offsets = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
        self.position_bias = nn.Parameter(torch.empty(num_offsets, num_heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer('index', relative_position_index(window_size), persistent=False)
        self.register_load_state_dict_pre_hook(_fit_table)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix windows (B n, T, C); ``mask`` (n, 1, T, T) is added to the logits."""
        q, k, v = _split_heads(self.qkv(x), self.num_heads)
        bias = _add_mask(bias_of_pairs(self.position_bias.T, self.index)[None], mask, len(x))
        x = attend(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).flatten(2))


class CosineWindowAttention(nn.Module):
    """Attention by the cosine of query and key, biased by a network of the offset (version 2).

    Args:
        embed_dim: size of a token (C).
        window_size: height and width of a window.
        num_heads: number of heads (h).
        trained_window: side of the windows that the offsets are scaled by; where weights come
            from smaller windows, the side of those.
    """

    index: Tensor
    offsets: Tensor

    def __init__(self, embed_dim: int, window_size: tuple[int, int], num_heads: int,
                 trained_window: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        # The same value added to all keys would be normalised away, so keys have no bias.
        self.q_bias = nn.Parameter(torch.zeros(embed_dim))
        self.v_bias = nn.Parameter(torch.zeros(embed_dim))
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.position_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))
        trained = (trained_window, trained_window) if trained_window else window_size
        self.register_buffer('index', relative_position_index(window_size), persistent=False)
        self.register_buffer('offsets', _log_offsets(window_size, trained), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix windows (B n, T, C); ``mask`` (n, 1, T, T) is added to the logits."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = _split_heads(F.linear(x, self.qkv.weight, bias), self.num_heads)
        # Equation 2 bounds the temperature from below by 0.01.
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
        table = 16 * self.position_mlp(self.offsets).sigmoid()
        position = _add_mask(bias_of_pairs(table.T, self.index)[None], mask, len(x)).to(q.dtype)
        if (x.device.type == 'cpu' and torch.compiler.is_compiling()
                and not torch.is_grad_enabled()):
            # Compiled, the bias is added in the pass of the softmax and never stands by itself.
            x = (q @ k.transpose(-2, -1) + position).softmax(-1) @ v
        else:
            x = attend(q, k, v, attn_mask=position, scale=1.0)
        return self.proj(x.transpose(1, 2).flatten(2))


class SwinBlock(nn.Module):
    """Windowed attention, then an MLP, each with a norm and a residual around it.

    Args:
        attn: mixes windows.
        embed_dim: size of a token (C).
        window_size: height and width of a window.
        is_shifted: roll the map by half a window before it is cut.
        is_post_norm: normalise what a branch puts out (version 2) rather than what it takes in.
        mlp_ratio: hidden size of the MLP over ``embed_dim``.
        dropout: probability to drop an output of a layer of the MLP in training.
        drop_path: probability to leave out each of the two branches in training.
        act: see ``make_act``; by default GELU.
        always_shift: roll also a map that one window covers.
    """

    def __init__(self, attn: nn.Module, embed_dim: int, window_size: tuple[int, int],
                 is_shifted: bool, is_post_norm: bool, mlp_ratio: float = 4.0,
                 dropout: float = 0.0, drop_path: float = 0.0, act: dict[str, Any] | None = None,
                 always_shift: bool = False):
        super().__init__()
        self.window_size, self.is_shifted = window_size, is_shifted
        self.always_shift = always_shift
        self.is_post_norm = is_post_norm
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, int(embed_dim * mlp_ratio), dropout, act)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        if self.is_post_norm:
            x = x + self.drop_path(self.norm1(self._attend(x)))
            return x + self.drop_path(self.norm2(self.mlp(x)))
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        size, (H, W) = self.window_size, x.shape[1:3]
        x = pad_to_windows(x, size)
        shape = (x.shape[1], x.shape[2])
        # A side that one window covers needs no shift: all its tokens see each other already.
        down, right = (
            side // 2 if self.is_shifted and (side < length or self.always_shift) else 0
            for side, length in zip(size, shape))
        mask = None
        if down or right:
            x = x.roll((-down, -right), (1, 2))
            mask = shifted_window_mask(shape, size, (down, right), x.device)
        x = merge_windows(self.attn(partition_windows(x, size), mask), size, shape)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :H, :W]


class PatchMerging(nn.Module):
    """Four neighbouring tokens become one of twice the size.

    Args:
        embed_dim: size of a token that comes in.
        is_post_norm: normalise after the linear layer (version 2) rather than before.
    """

    def __init__(self, embed_dim: int, is_post_norm: bool):
        super().__init__()
        self.is_post_norm = is_post_norm
        self.reduction = nn.Linear(4 * embed_dim, 2 * embed_dim, bias=False)
        self.norm = nn.LayerNorm((2 if is_post_norm else 4) * embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2 C)."""
        x = pad_to_windows(x, (2, 2))
        B, H, W, C = x.shape
        x = x.reshape(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.norm(self.reduction(x)) if self.is_post_norm else self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Patch merging (not in the first stage) and blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2 C), or in the first stage to the same shape."""
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class SwinPatchEmbed(nn.Module):
    """Embed patches and normalise them.

    Args:
        patch_size: height and width of a patch in pixels.
        in_channels: channels of the image.
        embed_dim: size of a token (C).
    """

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, H / P, W / P, C); zeros complete the last patches."""
        P = self.patch_size
        x = F.pad(x, (0, -x.shape[3] % P, 0, -x.shape[2] % P))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


def _unfold_to_blocks(tensor: Tensor) -> Tensor:
    """Reorder the last dimension from (C, row, column) to (column, row, C) of a merged patch."""
    return tensor.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)


def _without_key_bias(bias: Tensor) -> dict[str, Tensor]:
    query, _, value = bias.chunk(3)
    return {'q_bias': query, 'v_bias': value}


_COMPUTED = (
    (r'relative_position_index$', 'computed from the size of the window'),
    (r'relative_coords_table$', 'computed from the size of the window'),
    (r'attn_mask$', 'computed from the size of the map'),
)
_ATTENTION_KEYS = (
    (r'\.relative_position_bias_table$', '.position_bias'),
    (r'\.cpb_mlp\.', '.position_mlp.'),
)
_TIMM_KEYS = (
    *_ATTENTION_KEYS,
    (r'^layers\.', 'stages.'),
    (r'^norm\.', 'norms.3.'),
    (r'^head\.(?:fc\.)?', '../head.fc.'),
)
_TORCHVISION_KEYS = (
    *_ATTENTION_KEYS,
    (r'^features\.0\.0\.', 'patch_embed.proj.'),
    (r'^features\.0\.2\.', 'patch_embed.norm.'),
    *((rf'^features\.{2 * i + 1}\.', f'stages.{i}.blocks.') for i in range(4)),
    *((rf'^features\.{2 * i}\.', f'stages.{i}.downsample.') for i in range(1, 4)),
    (r'\.mlp\.0\.', '.mlp.fc1.'),
    (r'\.mlp\.3\.', '.mlp.fc2.'),
    (r'^norm\.', 'norms.3.'),
    (r'^head\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    *_ATTENTION_KEYS,
    (r'\.attn\.w_msa\.', '.attn.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^norm([0-3])\.', r'norms.\1.'),
)
# Transformers merge patches at the end of a stage; published files and models of transformers 5
# name the parts of a block differently.
_TRANSFORMERS_KEYS = (
    (r'^swin(?:v2)?\.', ''),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.norm\.', 'patch_embed.norm.'),
    *((rf'^encoder\.layers\.{i}\.downsample\.', f'stages.{i + 1}.downsample.') for i in range(3)),
    (r'^encoder\.layers\.', 'stages.'),
    (r'\.attention\.(?:output\.dense|o_proj)\.', '.attn.proj.'),
    (r'\.attention\.(?:self\.)?', '.attn.'),
    (r'\.attn\.q_proj\.', '.attn.query.'),
    (r'\.attn\.k_proj\.', '.attn.key.'),
    (r'\.attn\.v_proj\.', '.attn.value.'),
    (r'\.(?:relative_position_bias\.)?relative_position_bias_table$', '.position_bias'),
    (r'\.continuous_position_bias_mlp\.', '.position_mlp.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'\.output\.dense\.', '.mlp.fc2.'),
    (r'^layernorm\.', 'norms.3.'),
    *((rf'^hidden_states_norms\.stage{i + 1}\.', f'norms.{i}.') for i in range(4)),
    (r'^classifier\.', '../head.fc.'),
)
_TRANSFORMERS_V2_KEYS = (
    *_TRANSFORMERS_KEYS,
    (r'\.attn\.query\.bias$', '.attn.q_bias'),
    (r'\.attn\.value\.bias$', '.attn.v_bias'),
)
_MERGES = ((r'\.attn\.(query|key|value)\.', '.attn.qkv.', ('query', 'key', 'value')),)
_MASKED = (r'(?:^|\.)mask_token$|^decoder\.', 'only masked pre-training has masked patches')
# OpenMMLab merges patches at the end of a stage in version 1, at the beginning in version 2.
_OPENMMLAB_V1_KEYS = (
    *((rf'^stages\.{i}\.downsample\.', f'stages.{i + 1}.downsample.') for i in (2, 1, 0)),
    *_OPENMMLAB_KEYS,
)


@MODELS.register_module()
class SwinTransformer(nn.Module):
    """Swin-T, -S, -B and -L of versions 1 and 2, or any other size.

    Args:
        size: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dim``,
            ``num_blocks`` and ``num_heads`` where these are left out.
        version: 1 or 2.
        window_size: side of the windows, one for all stages or one for each. Published models of
            version 2 with windows of 16 or 24 have half of that in the last stage.
        trained_window: for version 2, side of the windows (one for each stage) in pre-training,
            where it was another one.
        always_shift: shift windows also where one covers the map, which then sees it in parts, as
            weights do that were trained so (OpenMMLab's with ``pad_small_map``).
        patch_size: height and width of a patch in pixels.
        in_channels: channels of the input.
        embed_dim: size of a token in the first stage; it doubles from stage to stage.
        num_blocks: blocks of each stage.
        num_heads: heads of each stage.
        mlp_ratio: hidden size of the MLPs over the size of a token.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        act: see ``make_act``; by default GELU.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32); each
            map passes a norm of its own.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _TORCHVISION_KEYS, _COMPUTED,
               transforms=((r'\.attn\.qkv\.bias$', lambda b: {
                   f'.attn.{name}': part for name, part in _without_key_bias(b).items()}),),
               signature=(r'^features\.1\.0\.attn\.cpb_mlp\.',)),
        KeyMap('torchvision', _TORCHVISION_KEYS, _COMPUTED,
               signature=(r'^features\.1\.0\.attn\.relative_position_bias_table',)),
        KeyMap('timm', _TIMM_KEYS, _COMPUTED,
               signature=(r'^patch_embed\.norm\.', r'^layers\.0\.blocks\.0\.attn\.qkv\.')),
        KeyMap('openmmlab', _OPENMMLAB_V1_KEYS,
               (*_COMPUTED, _MASKED),
               transforms=((r'\.downsample\.', _unfold_to_blocks),),
               signature=(r'^stages\.0\.blocks\.0\.attn\.w_msa\.relative_position_bias_table',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, _COMPUTED,
               transforms=((r'\.downsample\.reduction\.', _unfold_to_blocks),),
               signature=(r'^stages\.0\.blocks\.0\.attn\.w_msa\.cpb_mlp\.',)),
        KeyMap('transformers', _TRANSFORMERS_V2_KEYS, (*_COMPUTED, _MASKED), merges=_MERGES,
               signature=(r'\.attention\..*continuous_position_bias_mlp\.',)),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               (*_COMPUTED, (r'^(?:swin\.)?layernorm\.', 'each map has a norm of its own')),
               merges=_MERGES,
               signature=(r'^hidden_states_norms\.', r'\.0\.blocks\.0\.attention\.')),
        KeyMap('transformers', _TRANSFORMERS_KEYS, (*_COMPUTED, _MASKED), merges=_MERGES,
               signature=(r'embeddings\.patch_embeddings\.projection\.',
                          r'encoder\.layers\.0\.blocks\.0\.attention\.')),
    )

    def __init__(
        self,
        size: Literal['tiny', 'small', 'base', 'large'] = 'tiny',
        version: Literal[1, 2] = 1,
        window_size: int | Sequence[int] | None = None,
        trained_window: Sequence[int] | None = None,
        always_shift: bool = False,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dim: int | None = None,
        num_blocks: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        drop_path: float = 0.2,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'SwinTransformer has sizes {list(_SIZES)}, not {size!r}; for another '
                             'one give embed_dim, num_blocks and num_heads')
        if version not in (1, 2):
            raise ValueError(f'SwinTransformer has versions 1 and 2, not {version!r}')
        embed_dim = embed_dim or _SIZES[size][0]
        depths, heads = num_blocks or _SIZES[size][1], num_heads or _SIZES[size][2]
        windows = window_size or (7 if version == 1 else 8)
        windows = (windows,) * len(depths) if isinstance(windows, int) else tuple(windows)
        trained = tuple(trained_window or (None,) * len(depths))
        if not len(depths) == len(heads) == len(windows) == len(trained):
            raise ValueError(f'each stage needs an entry in num_blocks={tuple(depths)}, num_heads='
                             f'{tuple(heads)}, window_size={windows} and trained_window={trained}')
        self.out_stages = check_out_stages(out_stages, first=2, last=len(depths) + 1)

        self.patch_embed = SwinPatchEmbed(patch_size, in_channels, embed_dim)
        self.dropout = nn.Dropout(dropout)
        probs = iter(drop_path_probs(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        for i in range(self.out_stages[-1] - 1):
            dim, window = embed_dim * 2**i, (windows[i], windows[i])
            blocks = []
            for j in range(depths[i]):
                attn: nn.Module = WindowAttention(dim, window, heads[i])
                if version == 2:
                    attn = CosineWindowAttention(dim, window, heads[i], trained[i])
                blocks.append(SwinBlock(attn, dim, window, j % 2 == 1, version == 2, mlp_ratio,
                                        dropout, next(probs), act, always_shift))
            downsample = PatchMerging(dim // 2, version == 2) if i else nn.Identity()
            self.stages.append(SwinStage(downsample, blocks))
        dims = [embed_dim * 2 ** (stage - 2) for stage in self.out_stages]
        self.norms = nn.ModuleDict(
            {str(stage - 2): nn.LayerNorm(d) for stage, d in zip(self.out_stages, dims)})
        self.out_channels = tuple(dims)
        self.strides = tuple(patch_size * 2 ** (stage - 2) for stage in self.out_stages)
        init_transformer(self)
        if version == 2:
            for module in self.modules():
                if isinstance(module, SwinBlock):  # branches start small, appendix A1
                    nn.init.zeros_(module.norm1.weight)
                    nn.init.zeros_(module.norm2.weight)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        parts = ('position_bias', 'position_mlp', 'logit_scale')
        return {n for n, _ in self.named_parameters() if any(part in n for part in parts)}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.dropout(self.patch_embed(x))
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(self.norms[str(stage - 2)](x).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)


def _split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, each (B n, h, T, C / h), of (B n, T, 3 C)."""
    return qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _add_mask(bias: Tensor, mask: Tensor | None, num_windows: int) -> Tensor:
    """Bias (1, h, T, T) of all windows plus the mask (n, 1, T, T) of those of one image."""
    if mask is None:
        return bias
    both = bias + mask
    return both if len(mask) == num_windows else both.repeat(num_windows // len(mask), 1, 1, 1)


def _log_offsets(size: tuple[int, int], trained: tuple[int, int]) -> Tensor:
    """Offsets within a window in logarithmic steps, equation 4, ((2 S - 1)^2, 2)."""
    sides = [8 * torch.arange(1 - s, s) / max(t - 1, 1) for s, t in zip(size, trained)]
    offsets = torch.cartesian_prod(*sides)
    return offsets.sign() * (offsets.abs() + 1).log2() / 3


def _fit_table(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate biases of offsets learned for windows of another size."""
    assert isinstance(module, WindowAttention)
    name = f'{prefix}position_bias'
    if name in state and len(state[name]) != len(module.position_bias):
        state[name] = resize_relative_table(state[name], module.window_size)
