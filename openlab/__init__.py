"""openlab: one config-driven framework for vision and language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlab.apis.inference import Inferencer

__version__ = '0.1.0'
__all__ = ['Inferencer', '__version__']


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name == 'Inferencer':
        from openlab.apis.inference import Inferencer

        return Inferencer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
