"""DeepLabV3+: DeepLabV3 with a decoder that brings the edges back.

Paper: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation,
https://arxiv.org/abs/1802.02611.

Idea: context from ASPP is enlarged to a fine map of an early stage, joined with that map (thinned
to a few channels, so that it does not drown the context) and refined by two 3x3 convolutions.

What differs from the paper: backbones are those that are here instead of Xception. The pieces:
``openlab/layers/aspp.py`` and ``semantic.py``.

B batch · K classes · h, w size of the finest feature map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlab.algorithms.segmentation.semantic import SemanticSegmentor
from openlab.heads.decode_head import DecodeHead, channels_at, resize_map
from openlab.layers.aspp import ASPP, make_conv3
from openlab.layers.conv import ConvNormAct
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS


@MODELS.register_module()
class DeepLabV3PlusHead(DecodeHead):
    """ASPP on the last feature map, joined with the first one.

    Args:
        num_classes: K.
        in_channels: of all maps; by default what feeds the head.
        channels: width of ASPP and of the decoder.
        low_channels: what the first map is thinned to.
        dilations: of ASPP; (12, 24, 36) suit maps at an eighth of the image, half of that a
            sixteenth.
        separable: make all 3x3 convolutions separable, as the paper does.
        dropout: probability to drop an output of ASPP in training.
        loss: see ``DecodeHead``.
        extra_losses: see ``DecodeHead``.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] | None = None,
        channels: int = 256,
        low_channels: int = 48,
        dilations: Sequence[int] = (6, 12, 18),
        separable: bool = True,
        dropout: float = 0.1,
        loss: ClassificationLoss | None = None,
        extra_losses: dict[str, nn.Module] | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__(num_classes, loss, extra_losses)
        if in_channels is not None and len(in_channels) < 2:
            raise ValueError(
                f'DeepLabV3PlusHead joins a fine and a coarse feature map but only one comes '
                f'(in_channels={tuple(in_channels)}); name two in out_stages of the backbone')
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.aspp = ASPP(channels_at(in_channels, -1, self), channels, dilations, dropout,
                         separable, **style)
        self.low = ConvNormAct(channels_at(in_channels, 0, self), low_channels, 1, **style)
        self.decoder = nn.Sequential(
            make_conv3(channels + low_channels, channels, separable=separable, **style),
            make_conv3(channels, channels, separable=separable, **style))
        self.out = nn.Conv2d(channels, num_classes, 1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w) at the size of the first of ``feats``."""
        low = self.low(feats[0])
        context = resize_map(self.aspp(feats[-1]), low.shape[-2:])
        return self.out(self.decoder(torch.cat([context, low], dim=1)))


@MODELS.register_module()
class DeepLabV3Plus(SemanticSegmentor):
    """Backbone and ``DeepLabV3PlusHead``; arguments are those of ``SemanticSegmentor``."""
