"""Write a config as plain data that loads again to the same config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from openlab.config.errors import ConfigError
from openlab.config.nodes import LazyName, brief
from openlab.config.override import format_value

FORMATS = ('py', 'yaml', 'json')
_REFERENCE = 'openlab.registry.import_object'


def to_plain(value: Any, path: str = '') -> Any:
    """Return JSON data: a component's class by dotted path, tuples as lists.

    A class or constant that is not a ``type`` (``act=torch.nn.ReLU``) becomes a component that
    builds to it: ``{'type': 'openlab.registry.import_object', 'path': 'torch.nn.ReLU'}``.

    Raises:
        ConfigError: for a value without a plain form.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        plain = {}
        for key, inner in value.items():
            here = f'{path}.{key}' if path else str(key)
            if not isinstance(key, str):
                raise ConfigError(f'{here}: plain data has string keys only, not {key!r}')
            name = dotted_path(inner) if key == 'type' else None
            plain[key] = name if name is not None else to_plain(inner, here)
        return plain
    if isinstance(value, (list, tuple)):
        return [to_plain(v, f'{path}[{i}]') for i, v in enumerate(value)]
    name = dotted_path(value)
    if name is not None:
        return {'type': _REFERENCE, 'path': name}
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, 'item') and not getattr(value, 'shape', ()):
        return value.item()  # a number of numpy or torch
    raise ConfigError(
        f'{path}: {brief(value)} ({type(value).__name__}) has no form as plain data; name an '
        f'importable class or function, or write dict(type=...)'
    )


def dotted_path(value: Any) -> str | None:
    """Return where an importable class or function lives; None for all else."""
    if isinstance(value, LazyName):
        return value.dotted_path
    name = getattr(value, '__qualname__', None)
    module = getattr(value, '__module__', None)
    if name and module and '<' not in name and (isinstance(value, type) or callable(value)):
        return f'{module}.{name}'
    return None


def dump_text(cfg: Mapping, form: str = 'py') -> str:
    """Return the text of a config file in one of ``FORMATS``.

    Raises:
        ConfigError: for an unknown format.
    """
    plain = to_plain(cfg)
    if form == 'json':
        return json.dumps(plain, indent=2) + '\n'
    if form in ('yaml', 'yml'):
        import yaml

        return yaml.safe_dump(plain, sort_keys=False, width=100, allow_unicode=True)
    if form == 'py':
        return ''.join(f'{k} = {_layout(v, len(k) + 3)}\n' for k, v in plain.items())
    raise ConfigError(f'unknown format {form!r}; known are {", ".join(FORMATS)}')


def _layout(value: Any, used: int, depth: int = 0) -> str:
    """Write a literal on one line if it fits, else one item per line."""
    line = format_value(value)
    if len(line) + used <= 100 or not value or not isinstance(value, (dict, list)):
        return line
    pad = ' ' * 4 * (depth + 1)
    if isinstance(value, dict):
        items = [
            f'{pad}{k!r}: {_layout(v, len(pad) + len(repr(k)) + 3, depth + 1)},\n'
            for k, v in value.items()
        ]
        return '{\n' + ''.join(items) + pad[4:] + '}'
    items = [f'{pad}{_layout(v, len(pad) + 1, depth + 1)},\n' for v in value]
    return '[\n' + ''.join(items) + pad[4:] + ']'
