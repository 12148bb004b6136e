"""Turn checked config dicts into objects, children first.

A dict with a ``type`` becomes an object wherever the constructor asks for one. A parameter
annotated ``dict`` (or ``ConfigDict``) receives the raw dict instead, for components that build
many copies themselves (a norm layer, say). What can be derived is: a component that takes
``in_channels`` and is given none takes the ``out_channels`` of the sibling built before it.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

from openlab.config.errors import ConfigError, hint
from openlab.config.explain import short_place
from openlab.config.nodes import ConfigDict, LazyName, brief
from openlab.config.typecheck import element_hint, options, wants_tuple
from openlab.registry import (
    MODELS,
    REGISTRIES,
    Registry,
    UnknownComponentError,
    import_object,
)

_on_derived: ContextVar[Callable[[str, Any], None] | None] = ContextVar('on_derived', default=None)


class BuildError(ConfigError):
    """A component could not be built; the message names its key path and its constructor."""


def build(cfg: Any, registry: Registry = MODELS, path: str = '', *, feed: Any = None,
          **given: Any) -> Any:
    """Build the object that ``cfg`` describes; an object that is built already passes through.

    Args:
        cfg: a dict with ``type`` (class, dotted path or registered name) and its arguments.
        registry: where a bare name in ``type`` is looked up.
        path: key path of ``cfg`` in its config, for messages.
        feed: ``out_channels`` of what stands before it; its own parts may take them until one
            of them has channels of its own.
        **given: arguments that the caller supplies on top, such as a model's parameters for
            its optimizer.

    Raises:
        UnknownComponentError: if ``type`` names nothing.
        BuildError: if ``cfg`` describes no object, or the constructor refuses its arguments;
            the cause is chained.
    """
    path = path.lstrip('.')
    where = locate(cfg, path)
    if isinstance(cfg, (str, int, float, list, tuple)) or (isinstance(cfg, Mapping) and (
        'type' not in cfg and cfg
    )):
        raise BuildError(
            f'{where}: a {registry.name} is described by a dict with "type", such as '
            f'dict(type=Name, ...), not by {brief(cfg)}'
        )
    if not isinstance(cfg, Mapping) or not cfg:
        return cfg
    target = _resolve(cfg['type'], registry, where)
    if not callable(target):
        raise BuildError(f'{where}: type={brief(cfg["type"])} is {type(target).__name__}, which '
                         f'cannot be called')
    kwargs: dict[str, Any] = {k: v for k, v in cfg.items() if k != 'type'}
    _refuse_unknown(target, {**kwargs, **given}, where)
    hints = parameter_hints(target)
    for key in _in_signature_order(target, kwargs):
        kwargs[key] = _build_value(kwargs[key], hints.get(key), registry, f'{path}.{key}', feed)
        feed = getattr(kwargs[key], 'out_channels', feed)
    try:
        return target(**kwargs, **given)
    except BuildError:
        raise
    except Exception as error:
        text = str(error) or 'no message'
        raise BuildError(
            f'{where}: {name_of(target)} failed with {type(error).__name__}: {text}\n'
            f'    {show_signature(target)}'
        ) from error


def _resolve(value: Any, registry: Registry, where: str) -> Any:
    try:
        return resolve_type(value, registry)
    except UnknownComponentError as error:
        raise UnknownComponentError(f'{where}: {error}', error.near) from error


def _refuse_unknown(target: Any, arguments: Mapping[str, Any], where: str) -> None:
    accepted = accepted_arguments(target)
    if accepted is None:
        return
    for key in arguments:
        if key not in accepted:
            raise BuildError(
                f'{where}.{key}: {name_of(target)} has no argument {key!r}{hint(key, accepted)}\n'
                f'    {show_signature(target)}'
            )


def _build_value(value: Any, annotation: Any, registry: Registry, path: str, feed: Any) -> Any:
    if wants_raw(annotation):
        return value
    if isinstance(value, LazyName):
        return import_object(value.dotted_path)
    if isinstance(value, Mapping):
        if 'type' in value:
            child = _with_in_channels(value, registry, feed, path)
            return build(child, registry_for(annotation, registry), path, feed=feed)
        return {
            k: _build_value(v, None, registry, f'{path}.{k}', feed) for k, v in value.items()
        }
    if type(value) in (list, tuple):
        built = [
            _build_value(v, element_hint(annotation, i), registry, f'{path}[{i}]', feed)
            for i, v in enumerate(value)
        ]
        # Text configs have no tuples; the annotation tells where one is meant.
        return tuple(built) if isinstance(value, tuple) or wants_tuple(annotation) else built
    return value


def _with_in_channels(cfg: Mapping, registry: Registry, feed: Any, path: str) -> Mapping:
    """Add ``in_channels`` from the sibling that feeds this component, where it is left open."""
    if feed is None or cfg.get('in_channels') is not None:
        return cfg
    target = _resolve(cfg['type'], registry, locate(cfg, path))
    parameter = signature_of(target).parameters.get('in_channels')
    if parameter is None or parameter.default not in (None, inspect.Parameter.empty):
        return cfg
    annotation = parameter_hints(target).get('in_channels')
    takes_one = annotation is int or set(typing.get_args(annotation)) == {int, type(None)}
    several = isinstance(feed, (list, tuple))
    value = feed[-1] if takes_one and several else feed
    tell = _on_derived.get()
    if tell is not None:
        tell(f'{path.lstrip(".")}.in_channels', value)
    return _same_kind(cfg, in_channels=value)


def _same_kind(cfg: Mapping, **more: Any) -> Mapping:
    """Return ``cfg`` with more keys, its record of writers kept."""
    if isinstance(cfg, ConfigDict):
        copy = cfg.copy()
        copy.update(more)
        return copy
    return {**cfg, **more}


@contextlib.contextmanager
def watch_derived(tell: Callable[[str, Any], None]) -> Iterator[None]:
    """Call ``tell(key path, value)`` for every value that ``build`` derives inside the block."""
    token = _on_derived.set(tell)
    try:
        yield
    finally:
        _on_derived.reset(token)


def locate(cfg: Any, path: str) -> str:
    """Return ``key.path (file:line)``, the line where the component is written."""
    name = path.lstrip('.') or 'config'
    if isinstance(cfg, ConfigDict):
        writers = cfg.writers('type') or [w for key in cfg for w in cfg.writers(key)]
        if writers:
            return f'{name} ({short_place(writers[-1])})'
    return name


def resolve_type(value: Any, registry: Registry = MODELS) -> Any:
    """Return the class or function that a config's ``type`` stands for.

    Raises:
        UnknownComponentError: if there is none.
    """
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


def registry_for(annotation: Any, default: Registry) -> Registry:
    """Return the registry whose packages define what a parameter is annotated with."""
    for option in options(annotation):
        module = getattr(option, '__module__', '') if isinstance(option, type) else ''
        for registry in REGISTRIES.values():
            if any(f'{module}.'.startswith(f'{p}.') for p in registry.packages):
                return registry
    return default


def name_of(target: Any) -> str:
    """Return the name of a class or function."""
    return getattr(target, '__name__', None) or repr(target)


def show_signature(target: Any) -> str:
    """Return ``Name(argument: type = default, ...)`` as its author wrote it."""
    shown = signature_of(target).replace(return_annotation=inspect.Signature.empty)
    return f'{name_of(target)}{shown}'.replace("'", '')


def signature_of(target: Any) -> inspect.Signature:
    """Signature of a constructor without ``self``; empty where Python cannot tell."""
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter('arguments', inspect.Parameter.VAR_KEYWORD)])


@cache
def accepted_arguments(target: Any) -> tuple[str, ...] | None:
    """Return every keyword that a constructor accepts; ``None`` where it accepts any.

    ``**kwargs`` of a class is followed to the constructors of its bases.
    """
    names: list[str] = []
    for function in _constructors(target):
        parameters = list(signature_of(function).parameters.values())
        names += [
            p.name for p in parameters
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != 'self'
        ]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return tuple(dict.fromkeys(names))
    return None


def _constructors(target: Any) -> Iterator[Any]:
    if not isinstance(target, type) or '__signature__' in vars(target):
        yield target
        return
    for base in target.__mro__:
        own = vars(base)
        if base.__module__ == 'torch.nn.modules.module' or base is object:
            yield lambda: None  # their **kwargs only serve to complain
        elif '__init__' in own:
            yield own['__init__']
        elif '__new__' in own:
            yield target
            return


@cache
def parameter_hints(target: Any) -> dict[str, Any]:
    """Resolved annotations of a constructor's parameters, by name; unresolvable ones are left out.

    Where the constructor passes ``**kwargs`` on, those of the bases' constructors are known too.
    """
    hints: dict[str, Any] = {}
    for function in _constructors(target):
        if isinstance(function, type):
            function = vars(function).get('__init__', function)
        for name, annotation in _hints(function).items():
            hints.setdefault(name, annotation)
        if not any(p.kind is p.VAR_KEYWORD for p in signature_of(function).parameters.values()):
            break
    return hints


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # some annotations name types that exist only for type checkers
        pass
    hints = {}
    scope = getattr(function, '__globals__', {})
    for name, annotation in getattr(function, '__annotations__', {}).items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, scope)  # what get_type_hints does, one at a time
            except Exception:
                continue
        hints[name] = annotation
    return hints


def wants_raw(annotation: Any) -> bool:
    """Whether a parameter so annotated takes the config dict itself."""
    return any(
        (isinstance(o, type) and issubclass(o, dict))
        or (typing.get_origin(o) is dict and typing.get_args(o)[1:] == (Any,))
        for o in options(annotation)
    )


def _in_signature_order(target: Any, kwargs: dict[str, Any]) -> list[str]:
    order = [name for name in signature_of(target).parameters if name in kwargs]
    return order + [name for name in kwargs if name not in order]
