"""Edits of a config given as text: ``a.b=1``, ``a.0.c=x``, ``a+=[1]``, ``+a.b=1``, ``~a.b``.

| form                          | meaning                                                        |
|-------------------------------|----------------------------------------------------------------|
| ``a.b=1``                     | set a key that exists, or that the component's signature knows |
| ``a.0.b=1``, ``a[0].b=1``     | the same inside a list; negative indices count from the end    |
| ``a+=[x, y]``, ``a.append=x`` | extend a list; append to it                                    |
| ``+a.b=1``                    | add a key nobody has declared                                  |
| ``~a.b``                      | delete a key or list item                                      |

A value is a Python literal, ``dict(type=Name, x=1)``, ``true``/``false``/``none``/``null``, or
else the text itself. Edits copy the containers on their way instead of changing them, so that
another key which shares a container with the edited one keeps its value.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openlab.config.errors import ConfigError, hint
from openlab.config.nodes import ConfigDict, LazyName, Writer, as_node, brief, clone

_WORDS = {'true': True, 'false': False, 'none': None, 'null': None}
_STEP = re.compile(r'\.?([^.\[\]]+)|\[(-?\d+|\'[^\']*\'|"[^"]*")\]')
_FORM = re.compile(r'(?P<mark>[+~]?)(?P<path>[^=+~][^=]*?)(?:(?P<op>\+?=)(?P<value>.*))?', re.S)

Step = str | int


@dataclass(frozen=True)
class Override:
    """One parsed edit.

    Attributes:
        path: keys and list indices from the top of the config.
        action: ``set``, ``add`` (may make new keys), ``delete``, ``extend`` or ``append``.
        value: what to write; nothing for ``delete``.
        text: the edit as the user wrote it.
    """

    path: tuple[Step, ...]
    action: str
    value: Any
    text: str

    @property
    def name(self) -> str:
        """The top-level name that the edit starts from."""
        return str(self.path[0])


def parse_override(text: str) -> Override:
    """Parse one edit.

    Raises:
        ConfigError: if it has none of the known forms.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None or (match['mark'] != '~') != bool(match['op']):
        raise ConfigError(
            f'cannot read the override {text!r}; accepted are key.path=value, key.0=value, '
            f'key+=[values], key.append=value, +new.key=value and ~key'
        )
    path = parse_path(match['path'])
    value = parse_value(match['value']) if match['op'] else None
    action = {'+': 'add', '~': 'delete', '': 'set'}[match['mark']]
    if match['op'] == '+=':
        action = 'extend'
    elif action == 'set' and path[-1] == 'append' and len(path) > 1:
        action, path = 'append', path[:-1]
    return Override(path, action, value, text.strip())


def parse_path(text: str) -> tuple[Step, ...]:
    """Split ``a.0.b``, ``a[0].b`` or ``a['x.y']`` into its steps.

    Raises:
        ConfigError: if it is no such path.
    """
    text, steps, at = text.strip(), [], 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or text[0] == '.':
            raise ConfigError(f'{text!r} is not a key path; write it like model.head.num_classes')
        word = match[1] if match[1] is not None else match[2]
        if word[0] in '\'"':
            steps.append(word[1:-1])
        else:
            steps.append(int(word) if re.fullmatch(r'-?\d+', word) else word)
        at = match.end()
    if not steps or isinstance(steps[0], int):
        raise ConfigError(f'a key path starts with a name, not with {text!r}')
    return tuple(steps)


def join_path(steps: tuple[Step, ...]) -> str:
    """Write steps as one path: ``train_pipeline[0].scale``."""
    text = ''
    for step in steps:
        if isinstance(step, int):
            text += f'[{step}]'
        elif re.fullmatch(r'[^.\[\]\'"=]+', step) and not re.fullmatch(r'-?\d+', step):
            text += f'.{step}' if text else step
        else:
            text += f"['{step}']"
    return text


def parse_value(text: str) -> Any:
    """Read a value: a literal, ``dict(...)``, a word such as ``true``, or the text itself."""
    stripped = text.strip()
    if stripped.lower() in _WORDS:
        return _WORDS[stripped.lower()]
    try:
        return as_node(_evaluate(ast.parse(stripped, mode='eval').body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


def _evaluate(node: ast.expr) -> Any:
    """Evaluate a literal in which bare names are words and ``dict(...)`` may be called."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple():
            return tuple(_evaluate(v) for v in node.elts)
        case ast.List():
            return [_evaluate(v) for v in node.elts]
        case ast.Dict() if None not in node.keys:
            return {_evaluate(k): _evaluate(v) for k, v in zip(node.keys, node.values) if k}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = _evaluate(node.operand)
            if type(value) not in (int, float):
                raise ValueError('only numbers have a sign')
            return -value if isinstance(node.op, ast.USub) else value
        case ast.Name():
            return _WORDS.get(node.id.lower(), node.id)
        case ast.Attribute():
            return f'{_evaluate(node.value)}.{node.attr}'
        case ast.Call(func=ast.Name(id='dict'), args=[]) if all(k.arg for k in node.keywords):
            return {str(k.arg): _evaluate(k.value) for k in node.keywords}
        case ast.Call(func=ast.Name(id='float'), args=[ast.Constant(value=str(word))]):
            return float(word)
    raise ValueError('not a literal')


def format_value(value: Any) -> str:
    """Write plain data so that ``parse_value`` reads the same value back."""
    if isinstance(value, LazyName):
        return repr(value.dotted_path)
    if isinstance(value, float) and (value != value or value in (float('inf'), float('-inf'))):
        return f"float('{value}')"
    if isinstance(value, Mapping):
        return '{' + ', '.join(f'{k!r}: {format_value(v)}' for k, v in value.items()) + '}'
    if type(value) is list:
        return '[' + ', '.join(map(format_value, value)) + ']'
    if type(value) is tuple:
        return '(' + ', '.join(map(format_value, value)) + ',' * (len(value) == 1) + ')'
    return repr(value)


def apply_override(
    values: ConfigDict, override: Override, is_known: Callable[[tuple[Step, ...], Any], bool]
) -> None:
    """Apply one edit to the top-level ``values``, copying every container on the way.

    Args:
        values: top-level names and their values; only the name edited is bound anew.
        override: the edit.
        is_known: tells for (path, container) whether a key that the container does not hold is
            nevertheless declared: a top-level key, or an argument of the container's ``type``.

    Raises:
        ConfigError: if the path leads nowhere.
    """
    new = _applied(values, 0, override, is_known)
    name = override.name
    if override.action == 'delete' and len(override.path) == 1:
        dict.pop(values, name)
    else:
        dict.__setitem__(values, name, new[name])
    values._writers[name] = new._writers[name]


def _applied(
    node: Any, depth: int, override: Override, is_known: Callable[[tuple[Step, ...], Any], bool]
) -> Any:
    """Return a copy of ``node``, which lies ``depth`` steps down the path, with the edit made."""
    here = override.path[: depth + 1]
    copy: Any = list(node) if isinstance(node, (list, tuple)) else node.copy()
    step = _locate(copy, override.path[depth], here, override, is_known)
    if depth == len(override.path) - 1:
        _edit(copy, step, override)
    else:
        child = copy[step]
        if not isinstance(child, (Mapping, list, tuple)):
            rest = join_path(override.path[depth + 1 :])
            raise ConfigError(
                f'{override.text}: {join_path(here)} is {brief(child)}, so it has no {rest!r}'
            )
        _put(copy, step, _applied(child, depth + 1, override, is_known))
        if (depth == len(override.path) - 2 and isinstance(child, (list, tuple))) or depth == 0:
            _record(copy, step, override)
    return tuple(copy) if isinstance(node, tuple) else copy


def _locate(
    node: Any, step: Step, here: tuple[Step, ...], override: Override,
    is_known: Callable[[tuple[Step, ...], Any], bool],
) -> Step:
    """Return the key or index that ``step`` means in ``node``, making the key if allowed."""
    if isinstance(node, (list, tuple)):
        if not isinstance(step, int):
            raise ConfigError(
                f'{override.text}: {join_path(here[:-1])} is a list of {len(node)}; use an index '
                f'such as {join_path((*here[:-1], 0))}, not {step!r}'
            )
        if not -len(node) <= step < len(node):
            raise ConfigError(
                f'{override.text}: {join_path(here[:-1])} has only {len(node)} items; append with '
                f'{join_path(here[:-1])}+=[...]'
            )
        return step
    if step in node:
        return step
    if str(step) in node or (override.action == 'add' and isinstance(step, int)):
        return str(step)
    is_last = len(here) == len(override.path)
    is_made_here = isinstance(node, ConfigDict) and not node and len(here) > 1
    if override.action == 'add' or (
        override.action != 'delete' and (is_made_here or is_known(here, node))
    ):
        if not is_last:
            _put(node, step, ConfigDict())
        return step
    where = join_path(here[:-1]) or 'the config'
    advice = '' if override.action == 'delete' else (
        f'; to add a new key on purpose write +{override.text}'
    )
    raise ConfigError(
        f'{override.text}: {where} has no key {step!r}{hint(str(step), node)}'
        f' (it has {", ".join(map(str, node)) or "none"}){advice}'
    )


def _edit(node: Any, step: Any, override: Override) -> None:
    if override.action == 'delete':
        _record(node, step, override)
        if isinstance(node, dict):
            dict.__delitem__(node, step)
        else:
            del node[step]
        return
    value = clone(override.value)
    if override.action in ('extend', 'append'):
        present = isinstance(node, list) or step in node
        old = node[step] if present else []
        if not isinstance(old, (list, tuple)):
            raise ConfigError(
                f'{override.text}: {join_path(override.path)} is {brief(old)}, not a list'
            )
        if override.action == 'extend' and not isinstance(value, (list, tuple)):
            raise ConfigError(f'{override.text}: += takes a list; use .append= for one item')
        items = [*old, *value] if override.action == 'extend' else [*old, value]
        value = type(old)(items)
    old = node[step] if isinstance(node, list) or step in node else None
    _stamp(value, override)
    if isinstance(value, ConfigDict):
        value.follow(old)
    _put(node, step, value)
    _record(node, step, override)


def _stamp(value: Any, override: Override) -> None:
    """Record the override as the writer of every key inside a new value that has none yet."""
    if isinstance(value, ConfigDict):
        for key, inner in value.items():
            if not value.writers(key):
                value.record(key, Writer('--set', 0, override.text))
            _stamp(inner, override)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _stamp(inner, override)


def _record(node: Any, step: Step, override: Override) -> None:
    if isinstance(node, ConfigDict):
        node.record(step, Writer('--set', 0, override.text))


def _put(node: Any, step: Step, value: Any) -> None:
    """Set without a record of its own: the copy of a container is no new writer."""
    if isinstance(node, ConfigDict):
        dict.__setitem__(node, step, value)
    else:
        node[step] = value
