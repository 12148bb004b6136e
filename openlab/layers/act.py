"""Activation functions by config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openlab.layers.types import layer_class
from openlab.registry import MODELS


def make_act(act: Mapping[str, Any] | None = None) -> nn.Module:
    """Build an activation function.

    Args:
        act: ``dict(type=..., **arguments)``; by default ReLU. It works in place where the
            class can, unless ``inplace`` says otherwise.
    """
    arguments = dict(act or {})
    layer = layer_class(arguments.pop('type', nn.ReLU))
    if 'inplace' in inspect.signature(layer).parameters:
        arguments.setdefault('inplace', True)
    return layer(**arguments)


@MODELS.register_module()
class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), which CLIP was trained with in place of GELU.

    Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415, section 2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Activate each value."""
        return x * torch.sigmoid(1.702 * x)
