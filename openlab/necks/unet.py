"""Decoder of U-Net: go back to fine maps step by step, joining the encoder's map at each.

Paper: U-Net: Convolutional Networks for Biomedical Image Segmentation,
https://arxiv.org/abs/1505.04597, figure 1. Convolutions are padded, as is usual today, so that
sizes agree without cropping.

B batch · L levels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.conv import ConvNormAct
from openlab.registry import MODELS


@MODELS.register_module()
class UNetDecoder(nn.Module):
    """Enlarge the coarsest map, join it with the next finer one, convolve; and so on.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        num_convs: 3x3 convolutions after each joining; the paper has two.
        upsample: ``'nearest'`` repeats pixels; ``'deconv'`` is the paper's transposed 2x2
            convolution, which also brings the coarse map to the channels of the finer one.
        norm: see ``make_norm``.
        act: see ``make_act``.

    Attributes:
        out_channels: one number for each level: that of the backbone, as in the paper.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_convs: int = 2,
        upsample: Literal['nearest', 'deconv'] = 'nearest',
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        if num_convs < 1:
            raise ValueError(f'UNetDecoder needs num_convs of at least 1, got {num_convs}')
        if upsample not in ('nearest', 'deconv'):
            raise ValueError(f"UNetDecoder has upsample='nearest' or 'deconv', not {upsample!r}")
        self.out_channels: tuple[int, ...] = tuple(in_channels)
        self.ups = nn.ModuleList()
        self.joins = nn.ModuleList()
        for fine, coarse in zip(self.out_channels, self.out_channels[1:]):
            widened = fine if upsample == 'deconv' else coarse
            self.ups.append(nn.ConvTranspose2d(coarse, fine, 2, stride=2)
                            if upsample == 'deconv' else nn.Identity())
            convs = nn.Sequential(ConvNormAct(fine + widened, fine, 3, norm=norm, act=act))
            convs.extend(ConvNormAct(fine, fine, 3, norm=norm, act=act)
                         for _ in range(num_convs - 1))
            self.joins.append(convs)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, L of (B, C, h, w), finest first, to maps of the same shapes.

        Raises:
            ValueError: if their number is not that of ``in_channels``.
        """
        if len(feats) != len(self.out_channels):
            raise ValueError(
                f'UNetDecoder got {len(feats)} maps but was built for {len(self.out_channels)}; '
                'set model.backbone.out_stages to match model.neck.in_channels')
        outs = [feats[-1]]
        for fine, up, join in zip(feats[-2::-1], reversed(self.ups), reversed(self.joins)):
            coarse = up(outs[0])
            if coarse.shape[-2:] != fine.shape[-2:]:  # 'nearest', or a side that was odd
                coarse = F.interpolate(coarse, size=fine.shape[-2:], mode='nearest')
            outs.insert(0, join(torch.cat([fine, coarse], dim=1)))
        return tuple(outs)
