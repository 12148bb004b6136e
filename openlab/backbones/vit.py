"""Vision transformer: an image as a sequence of patches.

* Dosovitskiy et al., An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
* Sizes tiny and small, distillation token: Touvron et al., DeiT, https://arxiv.org/abs/2012.12877
* Sizes medium and huge, positions of patches only: Touvron et al., DeiT III,
  https://arxiv.org/abs/2204.07118
* Size giant with gated MLPs: Oquab et al., DINOv2, https://arxiv.org/abs/2304.07193
* Registers: Darcet et al., Vision Transformers Need Registers, https://arxiv.org/abs/2309.16588
* Norm before the blocks: Radford et al., CLIP, https://arxiv.org/abs/2103.00020

B batch · N tokens · D embedding · H, W image height and width · h, w rows and columns of patches
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.attention_pool import AttentionPool
from openlab.layers.drop import drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.norm import make_norm
from openlab.layers.patch_embed import PatchEmbed
from openlab.layers.position import grid_position, resize_position, resize_square_position
from openlab.layers.transformer import TransformerBlock
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

Output = Literal['class_token', 'mean', 'normed_mean', 'class_and_mean', 'attention_pool', 'maps']
_SIZES = {  # embed_dim, depth, num_heads
    'tiny': (192, 12, 3),
    'small': (384, 12, 6),
    'medium': (512, 12, 8),
    'base': (768, 12, 12),
    'large': (1024, 24, 16),
    'huge': (1280, 32, 16),
    'giant': (1536, 40, 24),
}

_TIMM_KEYS = (
    (r'^cls_token$', 'class_token'),
    (r'^dist_token$', 'distill_token'),
    (r'^reg_token$', 'registers'),
    (r'^pos_embed$', 'position'),
    (r'^norm_pre\.', 'pre_norm.'),
    (r'^fc_norm\.', 'norm.'),
    (r'^attn_pool\.latent$', 'pool.probe'),
    (r'^attn_pool\.', 'pool.'),
    (r'\.ls([12])\.gamma$', r'.scale\1.gamma'),
    (r'^head\.', '../head.fc.'),
    (r'^head_dist\.', '../head.fc_distill.'),
)
_OPENMMLAB_KEYS = (
    (r'^cls_token$', 'class_token'),
    (r'^dist_token$', 'distill_token'),
    (r'^pos_embed$', 'position'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^ln[12]\.', 'norm.'),
    (r'^layers\.', 'blocks.'),
    (r'\.ln([12])\.', r'.norm\1.'),
    (r'\.(?:attn|ffn)\.gamma([12])\.weight$', r'.scale\1.gamma'),
    (r'\.ffn\.(?:layers\.0\.0|w12)\.', '.mlp.fc1.'),
    (r'\.ffn\.(?:layers\.1|w3)\.', '.mlp.fc2.'),
)
_TRANSFORMERS_KEYS = (
    (r'^embeddings\.cls_token$', 'class_token'),
    (r'^embeddings\.register_tokens$', 'registers'),
    (r'^embeddings\.position_embeddings$', 'position'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^encoder\.layer\.', 'blocks.'),
    # Published files say query, key, value; models of transformers 5 say q_proj, k_proj, v_proj.
    (r'\.attention\.attention\.(query|key|value)\.', r'.attn.\1.'),
    (r'\.attention\.q_proj\.', '.attn.query.'),
    (r'\.attention\.k_proj\.', '.attn.key.'),
    (r'\.attention\.v_proj\.', '.attn.value.'),
    (r'\.attention\.(?:output\.dense|o_proj)\.', '.attn.proj.'),
    (r'\.layer_scale([12])\.lambda1$', r'.scale\1.gamma'),
    (r'\.mlp\.weights_in\.', '.mlp.fc1.'),
    (r'\.mlp\.(?:weights_out|down_proj)\.', '.mlp.fc2.'),
    (r'^layernorm\.', 'norm.'),
)
# ViT, DeiT and the encoder of MAE.
_PLAIN_TRANSFORMERS_KEYS = (
    (r'^(?:vit|deit)\.', ''),
    (r'^embeddings\.distillation_token$', 'distill_token'),
    (r'^cls_classifier\.', '../head.fc.'),
    (r'^distillation_classifier\.', '../head.fc_distill.'),
    *_TRANSFORMERS_KEYS,
    (r'^layers\.', 'blocks.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'^(blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'^classifier\.', '../head.fc.'),
)
# The image towers of CLIP and SigLIP.
TOWER_KEYS = (
    (r'^embeddings\.class_embedding$', 'class_token'),
    (r'^embeddings\.patch_embedding\.', 'patch_embed.proj.'),
    (r'^embeddings\.position_embedding\.weight$', 'position'),
    (r'^pre_layrnorm\.', 'pre_norm.'),
    (r'^post_layernorm\.', 'norm.'),
    (r'^encoder\.layers\.', 'blocks.'),
    (r'\.layer_norm([12])\.', r'.norm\1.'),
    (r'\.self_attn\.out_proj\.', '.attn.proj.'),
    (r'^head\.probe$', 'pool.probe'),
    (r'^head\.attention\.in_proj_', 'pool.qkv.'),
    (r'^head\.attention\.out_proj\.', 'pool.proj.'),
    (r'^head\.layernorm\.', 'pool.norm.'),
    (r'^head\.mlp\.', 'pool.mlp.'),
)
TOWER_TRANSFORMS = (
    (r'^class_token$', lambda tensor: tensor[None, None]),
    (r'^position$', lambda tensor: tensor[None]),
)
TOWER_MERGES = ((r'\.self_attn\.([qkv])_proj\.', '.attn.qkv.', ('q', 'k', 'v')),)
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
    """ViT-Ti, -S, -M, -B, -L, -H and -g, or any other size; DeiT, DeiT III and DINOv2 among them.

    Args:
        size: ``'tiny'``, ``'small'``, ``'medium'``, ``'base'``, ``'large'``, ``'huge'`` or
            ``'giant'``: sets ``embed_dim``, ``depth`` and ``num_heads`` where these are left out.
        patch_size: height and width of a patch in pixels.
        image_size: (height, width), or one number for both, that positions are learned for.
            Images of other sizes work as well: positions are then interpolated. Of images of this
            size what fills no patch, at the right and at the bottom, is cut off (SigLIP has 384
            pixels and patches of 14); other images must be multiples of ``patch_size``.
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
            (B, D), normalised last; so is ``'normed_mean'``, of patches that are normalised first,
            and ``'attention_pool'`` (SigLIP), which weighs the patches by a learned query;
            ``'class_and_mean'`` is both one after the other (B, 2 D), all tokens normalised first,
            as DINOv2 is probed; ``'maps'`` is a map of patch tokens (B, D, h, w) for each of
            ``out_stages``.
        with_class_token: prepend a class token; outputs that name it need it.
        with_distill_token: prepend a second one, which learns from a teacher (DeiT);
            ``output='class_token'`` then gives two vectors, its own last.
        num_registers: tokens without place or output, in which the network may keep notes.
        with_prefix_position: class and distillation token have learned positions as well.
        with_fixed_position: positions are waves in x and y and stay so (MAE, MoCo v3).
        with_pre_norm: normalise tokens before the first block; the patch embedding then has no
            bias (CLIP).
        with_gated_mlp: see ``TransformerBlock``.
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
        KeyMap('timm', _TIMM_KEYS, merges=((r'^pool\.(q|kv)\.', 'pool.qkv.', ('q', 'kv')),),
               signature=(r'^pos_embed$', r'^blocks\.0\.attn\.qkv')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS,
               drops=((r'^mask_token$', 'only masked pre-training has masked patches'),),
               signature=(r'^pos_embed$', r'^layers\.0\.attn\.qkv\.', r'^layers\.0\.ln1\.')),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               drops=((r'mask_token$', 'only masked pre-training has masked patches'),),
               merges=((r'\.attn\.(query|key|value)\.', '.attn.qkv.', ('query', 'key', 'value')),
                       (r'\.mlp\.(gate|up)_proj\.', '.mlp.fc1.', ('gate', 'up'))),
               signature=(r'^embeddings\.cls_token$', r'\.layer_scale1\.lambda1$')),
        KeyMap('transformers', _PLAIN_TRANSFORMERS_KEYS,
               drops=((r'^decoder\.', 'only masked pre-training paints patches'),
                      (r'(?:^|\.)pooler\.', 'only text-like pre-training has a pooler')),
               merges=((r'\.attn\.(query|key|value)\.', '.attn.qkv.', ('query', 'key', 'value')),),
               signature=(r'^(?:vit\.|deit\.)?embeddings\.cls_token$', r'\.layernorm_before\.')),
        KeyMap('transformers', TOWER_KEYS,
               drops=((r'position_ids$', 'counts from 0'),),
               transforms=TOWER_TRANSFORMS, merges=TOWER_MERGES,
               signature=(r'^embeddings\.patch_embedding\.', r'^post_layernorm\.')),
    )

    def __init__(
        self,
        size: Literal['tiny', 'small', 'medium', 'base', 'large', 'huge', 'giant'] = 'base',
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
        output: Output = 'class_token',
        with_class_token: bool = True,
        with_distill_token: bool = False,
        num_registers: int = 0,
        with_prefix_position: bool = True,
        with_fixed_position: bool = False,
        with_pre_norm: bool = False,
        with_gated_mlp: bool = False,
        out_stages: Sequence[int] | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'VisionTransformer has sizes {list(_SIZES)}, not {size!r}; for '
                             'another one give embed_dim, depth and num_heads')
        if output not in get_args(Output):
            raise ValueError(f'output is one of {", ".join(get_args(Output))}; not {output!r}')
        if output.startswith('class_') and not with_class_token:
            raise ValueError(f'output={output!r} needs with_class_token=True')
        if with_distill_token and output != 'class_token':
            raise ValueError("with_distill_token needs output='class_token': nothing else of the "
                             'network would see the token')
        if output != 'maps' and out_stages is not None:
            raise ValueError(f"out_stages needs output='maps', not {output!r}")
        embed_dim = embed_dim or _SIZES[size][0]
        depth = depth or _SIZES[size][1]
        num_heads = num_heads or _SIZES[size][2]
        norm = norm or {'type': nn.LayerNorm, 'eps': 1e-6}
        self.output = output
        self.out_stages = check_out_stages(out_stages or (depth,), first=1, last=depth)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.trained_size = (height, width)
        self.grid = (height // patch_size, width // patch_size)
        if not min(self.grid):
            raise ValueError(f'image_size={image_size} holds no patch of patch_size={patch_size}')

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim, bias=not with_pre_norm)
        self.num_prefix = with_class_token + with_distill_token + num_registers
        self.with_distill_token = with_distill_token
        if with_class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if with_distill_token:
            self.distill_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if num_registers:
            self.registers = nn.Parameter(torch.zeros(1, num_registers, embed_dim))
        self.num_placed = (with_class_token + with_distill_token) * with_prefix_position
        num_tokens = self.num_placed + math.prod(self.grid)
        self.position = nn.Parameter(torch.zeros(1, num_tokens, embed_dim),
                                     requires_grad=not with_fixed_position)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = make_norm(embed_dim, norm) if with_pre_norm else nn.Identity()
        # Blocks after the last wanted one would cost time and never get a gradient.
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, qkv_bias, dropout=dropout,
                             drop_path=prob, layer_scale=layer_scale, norm=norm, act=act,
                             with_gated_mlp=with_gated_mlp)
            for prob in drop_path_probs(drop_path, depth)[: self.out_stages[-1]])
        self.norm = make_norm(embed_dim, norm)
        if output == 'attention_pool':
            self.pool = AttentionPool(embed_dim, num_heads, mlp_ratio, norm, act)
        num_outputs = len(self.out_stages) + with_distill_token
        self.out_channels = (embed_dim * (1 + (output == 'class_and_mean')),) * num_outputs
        self.strides = (patch_size,) * num_outputs
        self._init_weights()
        self.register_load_state_dict_pre_hook(_fit_position)

    def _init_weights(self) -> None:
        init_transformer(self)
        if self.position.requires_grad:
            nn.init.trunc_normal_(self.position, std=0.02)
        else:
            waves = grid_position(self.grid, self.position.shape[-1], self.num_placed)
            self.position.data.copy_(waves)
        for name in sorted(self.no_weight_decay() - {'position'}):  # a set has no order
            nn.init.normal_(getattr(self, name), std=1e-6)
        # As a linear layer over all pixels of a patch, which it is.
        proj = self.patch_embed.proj
        nn.init.trunc_normal_(proj.weight, std=math.sqrt(1 / proj.weight[0].numel()))
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        names = ('position', 'class_token', 'distill_token', 'registers')
        return {name for name in names if hasattr(self, name)}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Vectors (B, D) or (B, 2 D) or maps (B, D, h, w), by ``output``, of x (B, 3, H, W)."""
        x, grid = self._embed(x)
        maps = []
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x)
            if self.output == 'maps' and stage in self.out_stages:
                y = self.norm(x) if stage == len(self.blocks) else x
                maps.append(y[:, self.num_prefix:].transpose(1, 2).unflatten(2, grid))
        if self.output == 'maps':
            return tuple(maps)
        if self.output == 'class_token':
            return tuple(self.norm(x[:, i]) for i in range(1 + self.with_distill_token))
        if self.output == 'class_and_mean':
            x = self.norm(x)
            return (torch.cat([x[:, 0], x[:, self.num_prefix:].mean(1)], dim=1),)
        if self.output == 'attention_pool':
            return (self.pool(self.norm(x[:, self.num_prefix:])),)
        if self.output == 'normed_mean':
            return (self.norm(x[:, self.num_prefix:]).mean(1),)
        # The mean comes before the norm: https://arxiv.org/abs/2111.06377, appendix A.
        return (self.norm(x[:, self.num_prefix:].mean(1)),)

    def encode(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """All tokens (B, N, D) after the last block and the norm, those of no place first.

        Args:
            x: images (B, 3, H, W).
            keep: the patches to look at, by index, (B, n); by default all of them. What is left
                out costs nothing (MAE).
        """
        x, _ = self._embed(x, keep)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _embed(self, x: Tensor, keep: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Tokens that enter the first block, and the grid of patches, of images x."""
        if x.shape[-2:] == self.trained_size:
            size = self.patch_embed.patch_size
            x = x[..., : self.grid[0] * size, : self.grid[1] * size]
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = self._with_positions(x.flatten(2).transpose(1, 2), grid, keep)
        return self.pre_norm(self.dropout(x)), grid

    def _with_positions(self, x: Tensor, grid: tuple[int, int],
                        keep: Tensor | None = None) -> Tensor:
        """Tokens of all kinds (B, N, D) of patches (B, h w, D): class, distillation, registers."""
        position: Tensor = self.position
        if grid != self.grid:
            position = resize_position(position, self.grid, grid, self.num_placed)
        x = x + position[:, self.num_placed:]
        if keep is not None:
            x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        prefix = []
        for i, name in enumerate(('class_token', 'distill_token')):
            if hasattr(self, name):
                token = getattr(self, name)
                prefix.append(token + position[:, i : i + 1] if self.num_placed else token)
        if hasattr(self, 'registers'):
            prefix.append(self.registers)
        return torch.cat([*(p.expand(len(x), -1, -1) for p in prefix), x], dim=1)


def _fit_position(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Interpolate positions learned for another (square) grid when weights are loaded."""
    assert isinstance(module, VisionTransformer)
    name = f'{prefix}position'
    if name not in state:
        return
    if f'{prefix}distill_token' in state and not module.with_distill_token and module.num_placed:
        # A network without this token, which stands second, has no place for it.
        state[name] = torch.cat([state[name][:, :1], state[name][:, 2:]], dim=1)
    state[name] = resize_square_position(state[name], module.grid, module.num_placed)
