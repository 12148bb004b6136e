"""MAE: hide most patches of an image, encode the rest, and paint the hidden ones.

Paper: Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377

Idea: three quarters of the patches, drawn anew for each image, are taken away before the encoder,
which therefore costs a quarter. A small decoder gets the encoded patches and a learned token in the
place of each hidden one, and predicts pixels. The loss is the squared error on hidden patches only,
each normalised by its own mean and deviation (section 3, "Reconstruction target").

What differs from the paper: the first weights of the encoder are those of our vision transformer.
Positions of the encoder are fixed waves where its config says ``with_fixed_position=True``, as it
should for the paper's recipe; those of the decoder always are. The pieces: the encoder is
``VisionTransformer.encode``, the decoder is here.

B batch · N patches · n patches that stay visible · D embedding · P pixels of a patch, channels
counted
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openlab.algorithms.selfsup.base import SelfSupervised, check_training
from openlab.backbones.vit import VisionTransformer
from openlab.layers.position import grid_position
from openlab.layers.transformer import TransformerBlock
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap

_ATTENTION = r'^(decoder\.blocks\.\d+)\.attention\.'


class MAEOutputs(NamedTuple):
    """What the decoder paints, and what it should.

    Attributes:
        pixels: predicted patches, (B, N, P).
        patches: the patches of the images, (B, N, P).
        is_hidden: which patches the encoder did not see, (B, N) bool.
    """

    pixels: Tensor
    patches: Tensor
    is_hidden: Tensor


@MODELS.register_module()
class MAEDecoder(nn.Module):
    """Transformer that fills in what the encoder did not see.

    Args:
        embed_dim: size of its tokens (D).
        depth: number of blocks.
        num_heads: heads of each attention.
        mlp_ratio: hidden size of the MLPs over ``embed_dim``.
        in_channels: size of the encoder's tokens; by default what feeds the decoder.
    """

    def __init__(self, embed_dim: int = 512, depth: int = 8, num_heads: int = 16,
                 mlp_ratio: float = 4.0, in_channels: int | Sequence[int] | None = None):
        super().__init__()
        if in_channels is None:
            raise ValueError('MAEDecoder needs in_channels: nothing feeds it that has out_channels')
        width = in_channels if isinstance(in_channels, int) else in_channels[-1]
        self.embed = nn.Linear(width, embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.out_channels = embed_dim
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, place: Tensor, position: Tensor) -> Tensor:
        """Tokens of all patches (B, N, D).

        Args:
            tokens: of the encoder, those of no place first, then the n visible patches.
            place: for each of the N patches its index among the visible ones, followed by the
                hidden ones in any order, (B, N).
            position: of tokens without place and patches, (1, N + those, D).
        """
        x = self.embed(tokens)
        num_prefix = position.shape[1] - place.shape[1]
        prefix, visible = x[:, :num_prefix], x[:, num_prefix:]
        num_hidden = place.shape[1] - visible.shape[1]
        hidden = self.mask_token.to(x.dtype).expand(len(x), num_hidden, -1)
        patches = torch.cat([visible, hidden], dim=1)
        patches = patches.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([prefix, patches], dim=1) + position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, num_prefix:]


@MODELS.register_module()
class MAE(SelfSupervised):
    """A vision transformer as encoder, and a decoder that is thrown away afterwards.

    Args:
        backbone: the encoder.
        decoder: a transformer, smaller than the encoder.
        mask_ratio: share of patches that are hidden.
        normalize_patches: predict patches with mean 0 and deviation 1 instead of pixels as they
            are.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap(
            'transformers',
            renames=(
                (r'^vit\.', 'backbone.'),
                (r'^decoder\.decoder_layers\.', 'decoder.blocks.'),
                (r'^decoder\.decoder_embed\.', 'decoder.embed.'),
                (r'^decoder\.decoder_norm\.', 'decoder.norm.'),
                (r'^decoder\.decoder_pred\.', 'to_pixels.'),
                # Published files say attention.query, models of transformers 5 say q_proj.
                (_ATTENTION + r'attention\.(query|key|value)\.', r'\1.attn.\2.'),
                (_ATTENTION + r'q_proj\.', r'\1.attn.query.'),
                (_ATTENTION + r'k_proj\.', r'\1.attn.key.'),
                (_ATTENTION + r'v_proj\.', r'\1.attn.value.'),
                (_ATTENTION + r'(?:output\.dense|o_proj)\.', r'\1.attn.proj.'),
                (r'^(decoder\.blocks\.\d+)\.layernorm_before\.', r'\1.norm1.'),
                (r'^(decoder\.blocks\.\d+)\.layernorm_after\.', r'\1.norm2.'),
                (r'^(decoder\.blocks\.\d+)\.intermediate\.dense\.', r'\1.mlp.fc1.'),
                (r'^(decoder\.blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
            ),
            drops=((r'^decoder\.decoder_pos_embed$', 'these waves are computed'),),
            merges=((r'\.attn\.(query|key|value)\.', '.attn.qkv.', ('query', 'key', 'value')),),
            signature=(r'^vit\.embeddings\.', r'^decoder\.mask_token$')),
        KeyMap(
            'openmmlab',
            renames=(
                (r'^neck\.mask_token$', 'decoder.mask_token'),
                (r'^neck\.decoder_embed\.', 'decoder.embed.'),
                (r'^neck\.decoder_blocks\.', 'decoder.blocks.'),
                (r'^neck\.ln1\.', 'decoder.norm.'),
                (r'^neck\.decoder_pred\.', 'to_pixels.'),
                (r'^(decoder\.blocks\.\d+)\.ln([12])\.', r'\1.norm\2.'),
                (r'^(decoder\.blocks\.\d+)\.ffn\.layers\.0\.0\.', r'\1.mlp.fc1.'),
                (r'^(decoder\.blocks\.\d+)\.ffn\.layers\.1\.', r'\1.mlp.fc2.'),
            ),
            drops=((r'^neck\.decoder_pos_embed$', 'these waves are computed'),),
            signature=(r'^backbone\.cls_token$', r'^neck\.decoder_pred\.')),
    )

    def __init__(self, backbone: VisionTransformer, decoder: MAEDecoder, mask_ratio: float = 0.75,
                 normalize_patches: bool = True, preprocessor: nn.Module | None = None):
        super().__init__(backbone, preprocessor)
        if not 0 < mask_ratio < 1:
            raise ValueError(f'mask_ratio must lie between 0 and 1, got {mask_ratio}')
        if not isinstance(backbone, VisionTransformer):
            raise ValueError('MAE needs a VisionTransformer as backbone: it alone can leave out '
                             f'patches; got {type(backbone).__name__}')
        self.decoder = decoder
        num_pixels = backbone.patch_embed.proj.weight[0].numel()
        self.to_pixels = nn.Linear(decoder.out_channels, num_pixels)
        nn.init.xavier_uniform_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)
        self.mask_ratio = mask_ratio
        self.normalize_patches = normalize_patches

    def train_outputs(self, inputs: Tensor) -> MAEOutputs:
        """Paint hidden patches of images (B, 3, H, W); which ones these are is drawn."""
        if not isinstance(inputs, Tensor):
            raise ValueError('MAE learns from one view of each image; leave MultiView out of the '
                             'pipeline of train_dataloader.dataset')
        h, w = self._grid(inputs)
        return self.reconstruct(inputs, torch.rand(len(inputs), h * w, device=inputs.device))

    def reconstruct(self, images: Tensor, noise: Tensor) -> MAEOutputs:
        """Hide the patches with the highest noise, and paint them.

        Args:
            images: (B, 3, H, W).
            noise: a number for each patch, row by row, (B, N).
        """
        order = noise.argsort(1)
        place = order.argsort(1)
        num_visible = int(noise.shape[1] * (1 - self.mask_ratio))
        tokens = self.backbone.encode(images, order[:, :num_visible])
        position = grid_position(
            self._grid(images), self.decoder.out_channels, self.backbone.num_prefix)
        pixels = self.to_pixels(self.decoder(tokens, place, position.to(images.device)))
        return MAEOutputs(pixels, cut_patches(images, self._patch_size), place >= num_visible)

    def loss(self, outputs: MAEOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_pixels``: squared error of hidden patches."""
        check_training(self, outputs)
        target = outputs.patches.float()
        if self.normalize_patches:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        error = (outputs.pixels.float() - target).square().mean(-1)
        return {'loss_pixels': error[outputs.is_hidden].mean()}

    @property
    def _patch_size(self) -> int:
        return self.backbone.patch_embed.patch_size

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2] // self._patch_size, images.shape[3] // self._patch_size


def cut_patches(images: Tensor, patch_size: int) -> Tensor:
    """Images (B, C, H, W) to patches (B, N, P), row by row; channels of a pixel lie together."""
    x = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
