"""Whether a config value fits an annotation, for the forms of typing that constructors use.

Only what is certainly wrong is refused: an annotation that is not understood accepts anything.
A list passes for a tuple, since text configs have no tuples; an int passes for a float; a string
passes for a path.
"""

from __future__ import annotations

import collections.abc
import inspect
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

from openlab.config.nodes import brief

_SEQUENCES = (
    list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable,
    collections.abc.Collection, collections.abc.Set, collections.abc.MutableSequence,
)
PLAIN = (bool, int, float, str, bytes, complex)


def misfit(value: Any, hint: Any) -> str | None:
    """Return what was expected if ``value`` cannot be meant by ``hint``, else ``None``.

    Components (dicts with ``type``) are not looked at: ``check`` compares their class.
    """
    return None if fits(value, hint) else describe(hint)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits an annotation."""
    if hint is Any or hint is inspect.Parameter.empty or isinstance(hint, (str, typing.TypeVar)):
        return True
    if hint is None or hint is type(None):
        return value is None
    if is_component(value):
        return not (isinstance(hint, type) and issubclass(hint, PLAIN))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin in (typing.ClassVar, typing.Final):
        return not args or fits(value, args[0])
    if origin is type:
        return isinstance(value, type) or hasattr(value, 'dotted_path') or isinstance(value, str)
    kind = origin or hint
    if not isinstance(kind, type):
        return True  # NewType, ParamSpec ...
    if kind is collections.abc.Callable:
        return callable(value) or isinstance(value, str)
    if kind in _SEQUENCES or kind in (dict, Mapping, collections.abc.MutableMapping):
        return _container_fits(value, kind, args)
    return _scalar_fits(value, kind)


def _container_fits(value: Any, kind: Any, args: tuple[Any, ...]) -> bool:
    if issubclass(kind, Mapping):
        if not isinstance(value, Mapping):
            return False
        return len(args) != 2 or all(
            fits(k, args[0]) and fits(v, args[1]) for k, v in value.items()
        )
    if not isinstance(value, (list, tuple, set, frozenset)):
        # A string is a sequence of strings to Python, and a mistake to everybody else.
        return not isinstance(value, (*PLAIN, type(None), Mapping))
    if kind is tuple and args and args[-1] is not Ellipsis:
        args = () if args == ((),) else args
        return len(value) == len(args) and all(map(fits, value, args))
    return not args or all(fits(v, args[0]) for v in value)


def _scalar_fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str) and issubclass(kind, os.PathLike):
        return True
    if getattr(kind, '_is_protocol', False):
        return True
    return isinstance(value, kind)


def is_component(value: Any) -> bool:
    """Whether a value is a dict that describes an object to build."""
    return isinstance(value, Mapping) and 'type' in value


def expected_classes(hint: Any) -> tuple[type, ...]:
    """Return the classes among the options of an annotation, where all options are known.

    An annotation that allows anything (``Any``, a protocol, a callable) gives an empty tuple.
    """
    found: list[type] = []
    for option in options(hint):
        kind = typing.get_origin(option) or option
        if kind is type(None):
            continue
        # From Python 3.11 on, Any is a class.
        if kind is Any or kind is object or not isinstance(kind, type) or getattr(
            kind, '_is_protocol', False
        ):
            return ()
        if kind in (collections.abc.Callable, type):
            return ()
        found.append(kind)
    return tuple(found)


def options(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of an annotation."""
    if typing.get_origin(hint) is typing.Annotated:
        return options(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(o for a in typing.get_args(hint) for o in options(a))
    return (hint,)


def element_hint(hint: Any, index: int) -> Any:
    """Return the annotation of one element of a list or tuple so annotated."""
    for option in options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is tuple and args and args[-1] is not Ellipsis:
            if index < len(args):
                return args[index]
        elif origin in _SEQUENCES and args:
            return args[0]
    return Any


def wants_tuple(hint: Any) -> bool:
    """Whether an annotation takes a tuple and no list, so that a list must become one."""
    kinds = [typing.get_origin(o) or o for o in options(hint)]
    return tuple in kinds and list not in kinds


def describe(hint: Any) -> str:
    """Return an annotation as a reader would write it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return 'None' if hint is type(None) else hint.__name__
    if typing.get_origin(hint) is typing.Literal:
        return ' or '.join(map(brief, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ' | '.join(map(describe, typing.get_args(hint)))
    return str(hint).replace('typing.', '').replace('collections.abc.', '')
