"""Vision transformer: an image as a sequence of patches.

* Dosovitskiy et al., An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
* Sizes tiny and small: Touvron et al., DeiT, https://arxiv.org/abs/2012.12877

B batch · N tokens · D embedding · H, W image height and width · h, w rows and columns of patches
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.drop import drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.norm import make_norm
from openlab.layers.patch_embed import PatchEmbed
from openlab.layers.position import resize_position
from openlab.layers.transformer import TransformerBlock
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES = {  # embed_dim, depth, num_heads
    'tiny': (192, 12, 3),
    'small': (384, 12, 6),
    'base': (768, 12, 12),
    'large': (1024, 24, 16),
}

_TIMM_KEYS = (
    (r'^cls_token$', 'class_token'),
    (r'^pos_embed$', 'position'),
    (r'^fc_norm\.', 'norm.'),
    (r'\.ls([12])\.gamma$', r'.scale\1.gamma'),
    (r'^head\.', '../head.fc.'),
)
_TORCHVISION_KEYS = (
    (r'^encoder\.pos_embedding$', 'position'),
    (r'^conv_proj\.', 'patch_embed.proj.'),
    (r'^encoder\.ln\.', 'norm.'),
    (r'^encoder\.layers\.encoder_layer_(\d+)\.', r'blocks.\1.'),
    (r'\.ln_([12])\.', r'.norm\1.'),
    (r'\.self_attention\.in_proj_', '.attn.qkv.'),
    (r'\.self_attention\.out_proj\.', '.attn.proj.'),
    (r'\.mlp\.(?:0|linear_1)\.', '.mlp.fc1.'),
    (r'\.mlp\.(?:3|linear_2)\.', '.mlp.fc2.'),
    (r'^heads\.head\.', '../head.fc.'),
)


@MODELS.register_module()
class VisionTransformer(nn.Module):
    """ViT-Ti, -S, -B and -L, or any other size.

    Args:
        size: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dim``, ``depth``
            and ``num_heads`` where these are left out.
        patch_size: height and width of a patch in pixels.
        image_size: (height, width), or one number for both, that positions are learned for.
            Images of other sizes work as well: positions are then interpolated.
        in_channels: channels of the input.
        embed_dim: size of a token (D).
        depth: number of blocks.
        num_heads: heads of each attention.
        mlp_ratio: hidden size of the MLPs over ``embed_dim``.
        qkv_bias: add a bias to queries, keys and values.
        dropout: probability to drop an output of a layer in training.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        layer_scale: first value of learned scales of the branches; ``None`` does without.
        output: what comes out: ``'class_token'`` or ``'mean'`` (of all patches) is one vector
            (B, D); ``'maps'`` is a map of patch tokens (B, D, h, w) for each of ``out_stages``.
        with_class_token: prepend a class token; ``output='class_token'`` needs it.
        out_stages: blocks, counted from 1, whose maps come out where ``output='maps'``; by
            default the last one. It alone passes the final norm.
        norm: see ``make_norm``; by default ``nn.LayerNorm`` with eps 1e-6.
        act: see ``make_act``; by default GELU.

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each output map.
    """

    weights = (
        KeyMap('torchvision', _TORCHVISION_KEYS, signature=(r'^encoder\.pos_embedding$',)),
        KeyMap('timm', _TIMM_KEYS, signature=(r'^pos_embed$', r'^blocks\.0\.attn\.qkv')),
    )

    def __init__(
        self,
        size: Literal['tiny', 'small', 'base', 'large'] = 'base',
        patch_size: int = 16,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        output: Literal['class_token', 'mean', 'maps'] = 'class_token',
        with_class_token: bool = True,
        out_stages: Sequence[int] | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'VisionTransformer has sizes {list(_SIZES)}, not {size!r}; for '
                             'another one give embed_dim, depth and num_heads')
        if output not in ('class_token', 'mean', 'maps'):
            raise ValueError(f"output is 'class_token', 'mean' or 'maps', not {output!r}")
        if output == 'class_token' and not with_class_token:
            raise ValueError("output='class_token' needs with_class_token=True")
        if output != 'maps' and out_stages is not None:
            raise ValueError(f"out_stages needs output='maps', not {output!r}")
        embed_dim = embed_dim or _SIZES[size][0]
        depth = depth or _SIZES[size][1]
        num_heads = num_heads or _SIZES[size][2]
        norm = norm or {'type': nn.LayerNorm, 'eps': 1e-6}
        self.output = output
        self.out_stages = check_out_stages(out_stages or (depth,), first=1, last=depth)
        self.grid = _grid_of(image_size, patch_size)

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.num_prefix = int(with_class_token)
        if with_class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        num_tokens = self.num_prefix + math.prod(self.grid)
        self.position = nn.Parameter(torch.zeros(1, num_tokens, embed_dim))
        self.dropout = nn.Dropout(dropout)
        # Blocks after the last wanted one would cost time and never get a gradient.
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, qkv_bias, dropout=dropout,
                             drop_path=prob, layer_scale=layer_scale, norm=norm, act=act)
            for prob in drop_path_probs(drop_path, depth)[: self.out_stages[-1]])
        self.norm = make_norm(embed_dim, norm)
        self.out_channels = (embed_dim,) * len(self.out_stages)
        self.strides = (patch_size,) * len(self.out_stages)
        self._init_weights()
        self.register_load_state_dict_pre_hook(_fit_position)

    def _init_weights(self) -> None:
        init_transformer(self)
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.num_prefix:
            nn.init.normal_(self.class_token, std=1e-6)
        # As a linear layer over all pixels of a patch, which it is.
        proj = self.patch_embed.proj
        nn.init.trunc_normal_(proj.weight, std=math.sqrt(1 / proj.weight[0].numel()))
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {'position', 'class_token'} if self.num_prefix else {'position'}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Vectors (B, D) or maps (B, D, h, w), by ``output``, of images x (B, 3, H, W)."""
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = self.dropout(self._with_positions(x.flatten(2).transpose(1, 2), grid))
        maps = []
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x)
            if self.output == 'maps' and stage in self.out_stages:
                y = self.norm(x) if stage == len(self.blocks) else x
                maps.append(y[:, self.num_prefix:].transpose(1, 2).unflatten(2, grid))
        if self.output == 'maps':
            return tuple(maps)
        # The mean comes before the norm: https://arxiv.org/abs/2111.06377, appendix A.
        pooled = x[:, 0] if self.output == 'class_token' else x[:, self.num_prefix:].mean(1)
        return (self.norm(pooled),)

    def _with_positions(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.num_prefix:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        position: Tensor = self.position
        if grid != self.grid:
            position = resize_position(position, self.grid, grid, self.num_prefix)
        return x + position


def _grid_of(image_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % patch_size or width % patch_size:
        raise ValueError(f'image_size={image_size} must be a multiple of patch_size={patch_size}')
    return height // patch_size, width // patch_size


def _fit_position(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate positions learned for another (square) grid when weights are loaded."""
    assert isinstance(module, VisionTransformer)
    name = f'{prefix}position'
    if name not in state or state[name].shape[1:2] == module.position.shape[1:2]:
        return
    side = math.isqrt(state[name].shape[1] - module.num_prefix)
    if side * side == state[name].shape[1] - module.num_prefix:
        state[name] = resize_position(
            state[name], (side, side), module.grid, module.num_prefix)
