"""A few convolutions on one feature map, then a score for each class and place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.heads.decode_head import DecodeHead, channels_at
from openlab.layers.conv import ConvNormAct
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class FCNHead(DecodeHead):
    """3x3 convolutions and a 1x1 one: the head of FCN, and the auxiliary head of many others.

    Args:
        num_classes: K.
        in_channels: of the maps, or of the one that is taken; by default what feeds the head.
        channels: width of the 3x3 convolutions; by default a quarter of the map's channels.
        num_convs: number of 3x3 convolutions.
        in_index: which feature map to take; -1 is the last, and for an auxiliary head -2 is the
            one before it.
        dropout: probability to drop a channel in training.
        loss: see ``DecodeHead``.
        extra_losses: see ``DecodeHead``.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    weights = (
        KeyMap(
            'torchvision',
            [(r'^0\.', 'convs.0.conv.'), (r'^1\.', 'convs.0.norm.'), (r'^4\.', 'out.')],
            signature=[r'^0\.weight$', r'^4\.weight$'],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | Sequence[int] | None = None,
        channels: int | None = None,
        num_convs: int = 1,
        in_index: int = -1,
        dropout: float = 0.1,
        loss: ClassificationLoss | None = None,
        extra_losses: dict[str, nn.Module] | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__(num_classes, loss, extra_losses)
        self.in_index = in_index
        last = channels_at(in_channels, in_index, self)
        width = channels or max(last // 4, 1)
        self.convs = nn.Sequential()
        for _ in range(num_convs):
            self.convs.append(ConvNormAct(last, width, 3, norm=norm, act=act))
            last = width
        self.dropout = nn.Dropout2d(dropout)
        self.out = nn.Conv2d(last, num_classes, 1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w) of the chosen one of ``feats``."""
        return self.out(self.dropout(self.convs(feats[self.in_index])))
