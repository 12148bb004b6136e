"""Let a layer choose the class of its own parts by config."""

from __future__ import annotations

from typing import Any

from openlab.registry import MODELS, import_object


def layer_class(value: Any) -> Any:
    """The class that a ``type`` stands for: a name, a class, or one that is still lazy."""
    if isinstance(value, str):
        return MODELS.get(value)
    if hasattr(value, 'dotted_path'):
        return import_object(value.dotted_path)
    return value
