"""SegFormer: a hierarchical transformer under a head that is almost nothing.

Paper: SegFormer, https://arxiv.org/abs/2105.15203.

Idea: a transformer sees far in its late stages and near in its early ones, so that no dilated
pyramid is needed to gather context. The head brings all four maps to one width and size, adds
them through one linear layer, and classifies.

What differs from the paper: nothing in what is computed. A linear layer and a bilinear
enlargement may change places, so maps are mixed at their own small sizes and enlarged afterwards.
The pieces: the transformer is ``openlab/backbones/mit.py``, the rest is in ``semantic.py``.

B batch · K classes · L levels · h, w size of the finest feature map
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from openlab.algorithms.segmentation.semantic import SemanticSegmentor
from openlab.heads.decode_head import DecodeHead, channels_at, resize_map
from openlab.layers.act import make_act
from openlab.layers.init import init_conv_net
from openlab.layers.norm import make_norm
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


def _split_fuse(weight: Tensor) -> Mapping[str, Tensor]:
    """One 1x1 convolution over four stacked maps, coarsest first, as one for each of them."""
    parts = weight.chunk(4, dim=1)
    return {f'fuse.{i}.weight': part for i, part in enumerate(reversed(parts))}


@MODELS.register_module()
class SegFormerHead(DecodeHead):
    """Linear layers on all feature maps, their sum, a score for each class.

    Args:
        num_classes: K.
        in_channels: of all maps, finest first; by default what feeds the head.
        channels: width of the head (256 for B0 and B1, 768 for the larger ones).
        dropout: probability to drop a channel in training.
        loss: see ``DecodeHead``.
        extra_losses: see ``DecodeHead``.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    weights = (
        KeyMap(
            'transformers',
            [
                (r'^linear_(?:projections|c)\.(\d)\.proj\.', r'lateral.\1.'),
                (r'^linear_fuse\.', 'fuse.'),
                (r'^batch_norm\.', 'norm.'),
                (r'^classifier\.', 'out.'),
            ],
            transforms=[
                (r'^fuse\.weight$', _split_fuse),
                (r'^lateral\.\d\.weight$', lambda weight: weight[:, :, None, None]),
            ],
            signature=[r'^linear_fuse\.'],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] | None = None,
        channels: int = 256,
        dropout: float = 0.1,
        loss: ClassificationLoss | None = None,
        extra_losses: dict[str, nn.Module] | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__(num_classes, loss, extra_losses)
        channels_at(in_channels, -1, self)  # refuses None
        maps = tuple(in_channels or ())
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in maps)
        self.fuse = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in maps)
        self.norm = make_norm(channels, norm)
        self.act = make_act(act)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Conv2d(channels, num_classes, 1)
        init_conv_net(self.fuse)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w) at the size of the first of ``feats``."""
        if len(feats) != len(self.lateral):
            raise ValueError(
                f'SegFormerHead got {len(feats)} feature maps but in_channels names '
                f'{len(self.lateral)}; make out_stages of the backbone and in_channels agree')
        size = feats[0].shape[-2:]
        y = self.fuse[0](self.lateral[0](feats[0]))
        for x, lateral, fuse in zip(feats[1:], self.lateral[1:], self.fuse[1:]):
            y = y + resize_map(fuse(lateral(x)), size)
        return self.out(self.dropout(self.act(self.norm(y))))


@MODELS.register_module()
class SegFormer(SemanticSegmentor):
    """Mix transformer and ``SegFormerHead``; arguments are those of ``SemanticSegmentor``."""

    weights = (
        KeyMap(
            'transformers',
            [(r'^segformer\.', 'backbone.'), (r'^decode_head\.', 'head.')],
            signature=[r'^segformer\.', r'^decode_head\.linear_fuse'],
        ),
    )
