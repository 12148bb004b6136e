"""Normalisation layers by config, and the one that libraries lack in channels-first form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn

from openlab.layers.types import layer_class
from openlab.registry import MODELS


def make_norm(channels: int, norm: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a normalisation layer for ``channels`` channels.

    Args:
        channels: number of channels that the layer sees.
        norm: ``dict(type=..., **arguments)``; by default batch normalisation. Any class that
            takes its number of channels first will do (detection backbones take
            ``FrozenBatchNorm2d``), and ``torch.nn.GroupNorm``.
    """
    arguments = dict(norm or {})
    layer = layer_class(arguments.pop('type', nn.BatchNorm2d))
    if layer is nn.GroupNorm:
        return nn.GroupNorm(num_channels=channels, **arguments)
    return layer(channels, **arguments)


@MODELS.register_module()
class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch normalisation that never learns: torchvision's, in one pass instead of two."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the statistics of pre-training."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            eps=self.eps)


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a map, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position on its own."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)
