"""JSON Schema of configs, so that an editor completes keys and marks wrong ones."""

from __future__ import annotations

import collections.abc
import typing
from collections.abc import Mapping
from typing import Any

from openlab.config.build import parameter_hints, resolve_type, signature_of
from openlab.config.slots import SLOTS, Slot
from openlab.config.typecheck import options
from openlab.registry import REGISTRIES, Registry, import_object

_TYPES: dict[Any, dict[str, Any]] = {
    int: {'type': 'integer'}, float: {'type': 'number'}, bool: {'type': 'boolean'},
    str: {'type': 'string'}, type(None): {'type': 'null'},
}
_SEQUENCES = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)


def config_schema() -> dict[str, Any]:
    """Return the schema: top-level keys, and every component with its arguments and their types.

    All registered components are imported for it; one that cannot be (an optional library is
    missing) is listed by name only.
    """
    definitions: dict[str, Any] = {}
    for registry in REGISTRIES.values():
        names = []
        for name in sorted(registry.entries()):
            key = f'{registry.name}.{name}'
            definitions[key] = _component(name, registry)
            names.append({'$ref': f'#/$defs/{key}'})
        # Dotted paths and classes of libraries are legal too: an editor cannot know them all.
        definitions[registry.name] = {'anyOf': [*names, {'type': 'object', 'required': ['type']}]}
    return {
        '$schema': 'https://json-schema.org/draft/2020-12/schema',
        'title': 'openlab config',
        'type': 'object',
        'properties': {'_base_': {'type': ['string', 'array']}, **_top_level()},
        'additionalProperties': True,
        '$defs': definitions,
    }


def _top_level() -> dict[str, Any]:
    runner = import_object('openlab.engine.runner.Runner')
    hints = parameter_hints(runner)
    words = argument_texts(runner)
    properties: dict[str, Any] = {}
    for name in signature_of(runner).parameters:
        if name != 'cfg':
            shown = _slot(name) or of_annotation(hints.get(name, Any))
            properties[name] = {**shown, 'description': words.get(name, '')}
    return properties


def _slot(name: str) -> dict[str, Any] | None:
    slot = next((s for s in SLOTS if s.path.replace('*', '') in name and '.' not in s.path
                 and (s.path == name or (s.path[0] == '*' and name.endswith(s.path[1:])))), None)
    if slot is None:
        return None
    if slot.registry is None or slot.default is not None:
        return _arguments_of_slot(slot) if slot.default else None
    one = {'$ref': f'#/$defs/{slot.registry.name}'}
    return {'anyOf': [one, {'type': 'array', 'items': one}]} if slot.is_list else one


def _arguments_of_slot(slot: Slot) -> dict[str, Any]:
    assert slot.default is not None
    schema = _arguments(import_object(slot.default), slot.given)
    schema['properties'] |= {'type': {'type': 'string'}} if slot.registry else {}
    for inner in SLOTS:
        parent, _, key = inner.path.rpartition('.')
        if parent == slot.path and inner.registry is not None:
            schema['properties'][key] = {'$ref': f'#/$defs/{inner.registry.name}'}
    return schema


def _component(name: str, registry: Registry) -> dict[str, Any]:
    try:
        target = resolve_type(name, registry)
    except ImportError:
        return {'properties': {'type': {'const': name}}, 'required': ['type']}
    schema = _arguments(target, ())
    schema['properties'] = {'type': {'const': name}, **schema['properties']}
    schema['required'] = ['type']
    return schema


def _arguments(target: Any, given: tuple[str, ...]) -> dict[str, Any]:
    hints, words = parameter_hints(target), argument_texts(target)
    properties: dict[str, Any] = {}
    is_open = False
    for name, parameter in signature_of(target).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            is_open = True
        elif name not in ('self', *given):
            shown = dict(of_annotation(hints.get(name, Any)))
            if name in words:
                shown['description'] = words[name]
            if type(parameter.default) in (int, float, bool, str):
                shown['default'] = parameter.default
            properties[name] = shown
    summary = (target.__doc__ or '').strip().partition('\n')[0]
    schema: dict[str, Any] = {'type': 'object', 'properties': properties}
    if summary:
        schema['description'] = summary
    if not is_open:
        schema['additionalProperties'] = False
    return schema


def of_annotation(hint: Any) -> dict[str, Any]:
    """Return the JSON Schema of an annotation; ``{}`` (anything) where there is none."""
    if hint in _TYPES:
        return _TYPES[hint]
    alternatives = options(hint)
    if len(alternatives) > 1:
        shown = [of_annotation(o) for o in alternatives]
        return {} if {} in shown else {'anyOf': shown}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {'enum': list(args)}
    kind = origin or hint
    if kind in _SEQUENCES:
        items = of_annotation(args[0]) if args and args[0] is not Ellipsis else {}
        fixed = kind is tuple and args and args[-1] is not Ellipsis
        return {'type': 'array', **({} if fixed or not items else {'items': items})}
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return {'type': 'object'}
    return {}


def argument_texts(target: Any) -> dict[str, str]:
    """Return what the ``Args:`` of a class's (Google) docstring say of each argument."""
    import inspect
    import re

    lines = inspect.cleandoc(target.__doc__ or '').splitlines()
    if 'Args:' not in lines:
        return {}
    texts: dict[str, str] = {}
    name = ''
    for line in lines[lines.index('Args:') + 1 :]:
        if line and not line.startswith(' '):
            break
        match = re.match(r' {4}\**(\w+)(?: \(.*?\))?: (.*)', line)
        if match:
            name = match[1]
            texts[name] = match[2]
        elif name and line.strip():
            texts[name] += ' ' + line.strip()
    return texts
