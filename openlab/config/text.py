"""Read YAML and JSON configs into dicts that know the line of every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from openlab.config.errors import ConfigError
from openlab.config.nodes import ConfigDict, Writer, brief


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the floats of YAML 1.2: ``1e-3`` is a number, not a word."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != 'tag:yaml.org,2002:timestamp']
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+'),
    list('-+.0123456789'),
)


def read_text_config(path: Path) -> ConfigDict:
    """Read a ``.yaml``, ``.yml`` or ``.json`` config.

    Raises:
        ConfigError: if the file cannot be parsed or is no mapping.
    """
    text = path.read_text(encoding='utf-8')
    plain = _json(text, path) if path.suffix == '.json' else None
    try:
        root = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        if plain is None:
            line = f':{mark.line + 1}' if mark else ''
            problem = getattr(error, 'problem', None) or str(error)
            raise ConfigError(f'{path}{line}: {problem}') from error
        root = None  # JSON with tabs: valid, but without line numbers
    if plain is None:
        plain = _Loader('').construct_document(root) if root is not None else {}
    if not isinstance(plain, dict):
        raise ConfigError(f'{path}: a config is a mapping of keys to values, not {brief(plain)}')
    return _node(plain, root, str(path))


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f'{path}:{error.lineno}: {error.msg}') from error


def _node(value: Any, mark: yaml.Node | None, file: str) -> Any:
    """Convert ``value`` to config nodes, reading line numbers off the parse tree beside it."""
    if isinstance(value, dict):
        pairs = mark.value if isinstance(mark, yaml.MappingNode) else []
        marks = {str(k.value): (k.start_mark.line + 1, v) for k, v in pairs}
        node = ConfigDict()
        for key, inner in value.items():
            line, inner_mark = marks.get(str(key), (1, None))
            dict.__setitem__(node, key, _node(inner, inner_mark, file))
            node.record(key, Writer(file, line, brief(node[key])))
        return node
    if isinstance(value, list):
        inner_marks = mark.value if isinstance(mark, yaml.SequenceNode) else [None] * len(value)
        return [_node(v, m, file) for v, m in zip(value, inner_marks)]
    return value
