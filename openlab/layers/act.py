"""Activation functions by config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from openlab.layers.types import layer_class


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
