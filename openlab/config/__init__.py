"""Load, check and print configs. Everything here is light: no torch, no mmengine."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from openlab.config.errors import ConfigError
from openlab.config.load import Config, ConfigWarning, find_config, load_config, shipped_configs
from openlab.config.nodes import ConfigDict, LazyName, Writer

if TYPE_CHECKING:
    from openlab.config.check import check_config
    from openlab.config.resolve import resolve_config

__all__ = [
    'Config', 'ConfigDict', 'ConfigError', 'ConfigWarning', 'LazyName', 'Writer', 'check_config',
    'find_config', 'load_config', 'read_base', 'resolve_config', 'shipped_configs',
]


@contextlib.contextmanager
def read_base() -> Iterator[None]:
    """Mark the imports of base configs in a pure-Python config.

    The loader reads the block itself and never calls this; it exists so that editors and type
    checkers understand a config.
    """
    yield


def __getattr__(name: str) -> Any:  # what needs the components' classes is imported late
    homes = {'check_config': 'check', 'resolve_config': 'resolve'}
    if name not in homes:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{homes[name]}'), name)
