"""Ways to draw first weights that more than one family uses."""

from __future__ import annotations

from torch import nn


def init_conv_net(module: nn.Module) -> None:
    """He initialisation (fan out) of convolutions; normalisations start as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode='fan_out', nonlinearity='relu')
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_transformer(module: nn.Module) -> None:
    """Truncated normal (deviation 0.02) linear weights with zero bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def zero_scale(norm: nn.Module) -> None:
    """Make a normalisation put out zero until its scale has been trained."""
    weight = getattr(norm, 'weight', None)
    if isinstance(weight, nn.Parameter):
        nn.init.zeros_(weight)
