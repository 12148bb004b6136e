"""Turn checked config dicts into objects, children first.

A dict with a ``type`` becomes an object wherever the constructor asks for one. A parameter
annotated ``dict`` (or ``ConfigDict``) receives the raw dict instead, for components that build
many copies themselves (a norm layer, say). What can be derived is: a component that takes
``in_channels`` and is given none takes the ``out_channels`` of the sibling built before it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from openlab.registry import (
    MODELS,
    REGISTRIES,
    Registry,
    UnknownComponentError,
    import_object,
)


class BuildError(ValueError):
    """A component could not be built; the message names its key path and its constructor."""


def build(cfg: Any, registry: Registry = MODELS, path: str = '', **given: Any) -> Any:
    """Build the object that ``cfg`` describes; anything without a ``type`` passes through.

    Args:
        cfg: a dict with ``type`` (class, dotted path or registered name) and its arguments.
        registry: where a bare name in ``type`` is looked up.
        path: key path of ``cfg`` in its config, for messages.
        **given: arguments that the caller supplies on top, such as a model's parameters for
            its optimizer.

    Raises:
        UnknownComponentError: if ``type`` names nothing.
        BuildError: if the constructor refuses its arguments; the cause is chained.
    """
    if not (isinstance(cfg, Mapping) and 'type' in cfg):
        return cfg
    target = resolve_type(cfg['type'], registry)
    kwargs: dict[str, Any] = {k: v for k, v in cfg.items() if k != 'type'}
    hints = parameter_hints(target)
    feed: Any = None
    for key in _in_signature_order(target, kwargs):
        kwargs[key] = _build_value(kwargs[key], hints.get(key), registry, f'{path}.{key}', feed)
        feed = getattr(kwargs[key], 'out_channels', feed)
    try:
        return target(**kwargs, **given)
    except BuildError:
        raise
    except Exception as error:
        name = getattr(target, '__name__', str(target))
        raise BuildError(
            f'{path.lstrip(".") or "config"}: {name}{signature_of(target)} '
            f'failed: {type(error).__name__}: {error}'
        ) from error


def _build_value(value: Any, hint: Any, registry: Registry, path: str, feed: Any) -> Any:
    if wants_raw(hint):
        return value
    if isinstance(value, Mapping):
        if 'type' in value:
            return build(_with_in_channels(value, registry, feed), registry, path.lstrip('.'))
        return {k: _build_value(v, None, registry, f'{path}.{k}', feed) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        built = [
            _build_value(v, None, registry, f'{path}[{i}]', feed) for i, v in enumerate(value)
        ]
        return type(value)(built) if type(value) in (list, tuple) else built
    return value


def _with_in_channels(cfg: Mapping, registry: Registry, feed: Any) -> Mapping:
    """Add ``in_channels`` from the sibling that feeds this component, where it is left open."""
    if feed is None or cfg.get('in_channels') is not None:
        return cfg
    target = resolve_type(cfg['type'], registry)
    parameter = signature_of(target).parameters.get('in_channels')
    if parameter is None or parameter.default not in (None, inspect.Parameter.empty):
        return cfg
    hint = parameter_hints(target).get('in_channels')
    takes_one = hint is int or set(typing.get_args(hint)) == {int, type(None)}
    several = isinstance(feed, (list, tuple))
    return {**cfg, 'in_channels': feed[-1] if takes_one and several else feed}


def resolve_type(value: Any, registry: Registry = MODELS) -> Any:
    """Return the class or function that a config's ``type`` stands for."""
    if isinstance(value, str):
        try:
            return registry.get(value)
        except UnknownComponentError:
            # A child may be of another kind than its parent: a dataset has transforms.
            for other in REGISTRIES.values():
                if value in other.entries() or value in other._module_dict:
                    return other.get(value)
            raise
    if hasattr(value, 'dotted_path'):  # a name imported by a pure-Python config, still lazy
        return import_object(value.dotted_path)
    return value


def signature_of(target: Any) -> inspect.Signature:
    """Signature of a constructor without ``self``; empty where Python cannot tell."""
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return inspect.Signature()


@cache
def parameter_hints(target: Any) -> dict[str, Any]:
    """Resolved annotations of a constructor's parameters, by name."""
    function = target.__init__ if isinstance(target, type) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # third-party annotations may name types that exist only for checkers
        return dict(getattr(function, '__annotations__', {}))


def wants_raw(hint: Any) -> bool:
    """Whether a parameter so annotated takes the config dict itself."""
    options = [a for a in typing.get_args(hint) if a is not type(None)] or [hint]
    return any(
        (isinstance(o, type) and issubclass(o, dict)) or (typing.get_origin(o) is dict
        and typing.get_args(o)[1:] == (Any,)) for o in options
    )


def _in_signature_order(target: Any, kwargs: dict[str, Any]) -> list[str]:
    order = [name for name in signature_of(target).parameters if name in kwargs]
    return order + [name for name in kwargs if name not in order]
