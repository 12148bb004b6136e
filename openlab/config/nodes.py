"""What a loaded config is made of: dicts that remember who wrote each key, and lazy names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from openlab.config.errors import ConfigError, hint


@dataclass(frozen=True)
class Writer:
    """One place that gave a key its value.

    Attributes:
        file: config file, or the word for what is not a file (``--set``).
        line: line in that file; 0 where there is none.
        text: short form of the value written, or of the edit made.
        reads: variables that the written expression refers to.
    """

    file: str
    line: int = 0
    text: str = ''
    reads: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """``file:line``."""
        return f'{self.file}:{self.line}' if self.line else self.file


_place: ContextVar[Writer | None] = ContextVar('place', default=None)


@contextlib.contextmanager
def writing(place: Writer) -> Iterator[None]:
    """Note ``place`` as the writer of every key that is set inside the block."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


class LazyName:
    """A class, function or module that a config names without importing it.

    Attributes:
        dotted_path: where it lives, such as ``torch.optim.AdamW``.
        where: ``file:line`` of the import statement.
    """

    __slots__ = ('dotted_path', 'where')

    def __init__(self, dotted_path: str, where: str = ''):
        self.dotted_path = dotted_path
        self.where = where

    def __getattr__(self, name: str) -> LazyName:
        if name.startswith('__') and name.endswith('__'):
            raise AttributeError(name)
        return LazyName(f'{self.dotted_path}.{name}', self.where)

    def __getstate__(self) -> tuple[str, str]:
        return self.dotted_path, self.where

    def __setstate__(self, state: tuple[str, str]) -> None:
        self.dotted_path, self.where = state

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: nothing is imported yet that could be called."""
        name = self.dotted_path.rpartition('.')[2]
        raise ConfigError(
            f'{self.dotted_path} is imported only when the config is built and cannot be called '
            f'in it; write dict(type={name}, ...) instead'
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyName) and other.dotted_path == self.dotted_path

    def __hash__(self) -> int:
        return hash(self.dotted_path)

    def __repr__(self) -> str:
        return f'<{self.dotted_path}>'


class ConfigDict(dict):
    """A dict with attribute access that records every writer of each of its keys.

    Dicts put into it become ``ConfigDict`` too; lists and tuples stay what they are.
    """

    __slots__ = ('_writers',)
    _writers: dict[str, list[Writer]]

    def __new__(cls, *args: Any, **kwargs: Any) -> ConfigDict:
        """Make room for the record before any key arrives (unpickling sets keys first)."""
        self = super().__new__(cls)
        object.__setattr__(self, '_writers', {})
        return self

    def __init__(self, values: Mapping | Iterable[tuple[Any, Any]] = (), /, **kwargs: Any):
        super().__init__()
        self.update(values, **kwargs)

    def __setitem__(self, key: Any, value: Any) -> None:
        place = _place.get()
        value = as_node(value)
        if place is not None:
            if _is_fresh(value, place):
                value.follow(self.get(key))
            self.record(key, replace(place, text=brief(value)))
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(f'{key!r} is not a key here{hint(str(key), self)}')
        place = _place.get()
        if place is not None:
            self.record(key, replace(place, text='deleted'))
        super().__delitem__(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f'no key {name!r} here{hint(name, self)}') from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __reduce__(self) -> tuple:
        return _restore, (type(self), dict(self), self._writers, self._slots())

    def _slots(self) -> dict[str, Any]:
        """Further attributes of a subclass that copies and pickles keep."""
        return {}

    def __copy__(self) -> ConfigDict:
        writers = {k: list(v) for k, v in self._writers.items()}
        return _restore(type(self), dict(self), writers, self._slots())

    def copy(self) -> ConfigDict:
        """Return a shallow copy with the same record."""
        return self.__copy__()

    def update(self, values: Any = (), /, **kwargs: Any) -> None:
        """Set several keys; a key's old value is replaced as a whole."""
        for source in (values, kwargs):
            pairs = source.items() if isinstance(source, Mapping) else source
            for key, value in pairs:
                past = self.writers(key)
                self[key] = value
                if isinstance(source, ConfigDict) and source.writers(key):
                    self._writers[key] = past + source.writers(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Set ``key`` where it is missing; return its value."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove ``key`` and return its value."""
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def __or__(self, other: Any) -> ConfigDict:  # type: ignore[override]
        both = clone(self)
        both.update(other)
        return both

    def __ior__(self, other: Any) -> ConfigDict:  # type: ignore[override,misc]
        self.update(other)
        return self

    def merge(self, other: Mapping) -> None:
        """Merge ``other`` into this dict, level by level (see ``merged``)."""
        result = merged(self, other)
        super().clear()
        super().update(result)
        object.__setattr__(self, '_writers', result._writers)

    def writers(self, key: Any) -> list[Writer]:
        """Every writer of ``key``, in order; the last one won."""
        return list(self._writers.get(key, ()))

    def record(self, key: Any, writer: Writer) -> None:
        """Add a writer of ``key``."""
        self._writers.setdefault(key, []).append(writer)

    def follow(self, older: Any) -> None:
        """Put the record of ``older``, which this dict replaces, before the own one."""
        if not isinstance(older, ConfigDict) or older is self:
            return
        for key in self:
            own = self._writers.get(key, [])
            past = [w for w in older._writers.get(key, ()) if w not in own]
            if past or own:
                self._writers[key] = past + own
            if isinstance(self[key], ConfigDict):
                self[key].follow(older.get(key))


def _restore(cls: type[ConfigDict], values: dict, writers: dict, slots: dict) -> Any:
    self = cls.__new__(cls)
    dict.update(self, values)
    object.__setattr__(self, '_writers', writers)
    for name, value in slots.items():
        object.__setattr__(self, name, value)
    return self


def _is_fresh(value: Any, place: Writer) -> bool:
    """Whether a dict was made by the statement at ``place``, so that nothing else holds it."""
    return isinstance(value, ConfigDict) and all(
        len(ws) == 1 and ws[0].file == place.file and ws[0].line >= place.line
        for ws in value._writers.values()
    )


def as_node(value: Any) -> Any:
    """Turn plain dicts, in lists and tuples too, into ``ConfigDict``; keep all else as it is."""
    if isinstance(value, ConfigDict):
        return value
    if type(value) is dict:
        return ConfigDict(value)
    if type(value) is list:
        # In place: two keys that hold the same list must go on holding the same one.
        value[:] = [as_node(v) for v in value]
        return value
    if type(value) is tuple:
        return tuple(as_node(v) for v in value)
    return value


def clone(value: Any) -> Any:
    """Copy dicts, lists and tuples at all depths with their records; share the leaves."""
    if isinstance(value, ConfigDict):
        values = {k: clone(v) for k, v in value.items()}
        writers = {k: list(v) for k, v in value._writers.items()}
        return _restore(type(value), values, writers, value._slots())
    if isinstance(value, Mapping):
        return ConfigDict({k: clone(v) for k, v in value.items()})
    if type(value) in (list, tuple):
        return type(value)(clone(v) for v in value)
    return value


def merged(base: Mapping, child: Mapping, path: str = '') -> ConfigDict:
    """Return ``base`` with ``child`` merged into it, level by level; neither is changed.

    ``_delete_=True`` in a child's dict replaces the base's dict instead. A child's dict whose
    keys are all indices edits a base's *list*: ``{0: dict(scale=64), '+': [dict(...)]}``.

    Raises:
        ConfigError: if a dict is merged into something that is neither dict nor list.
    """
    result = clone(base)
    for key, value in child.items():
        if key == '_delete_':
            continue
        here = f'{path}.{key}' if path else str(key)
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, list) and _is_list_edit(value):
            new: Any = _edited_list(old, value, here)
        elif isinstance(value, Mapping) and value.get('_delete_'):
            new = clone(value)
            dict.pop(new, '_delete_')
            new.follow(old)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            new = merged(old, value, here)
        elif isinstance(value, Mapping) and old is not None:
            raise ConfigError(
                f'{here} is a dict in the child but {brief(old)} in its base; write '
                f'_delete_=True in the child to replace it'
            )
        else:
            new = merged(ConfigDict(), value, here) if isinstance(value, Mapping) else clone(value)
        dict.__setitem__(result, key, new)
        if isinstance(child, ConfigDict):
            for writer in child.writers(key):
                result.record(key, writer)
    return result


def _is_list_edit(value: Mapping) -> bool:
    return bool(value) and all(
        isinstance(k, int) or k == '+' or (isinstance(k, str) and k.lstrip('-').isdigit())
        for k in value
    )


def _edited_list(old: list, edits: Mapping, path: str) -> list:
    new = clone(old)
    for key, value in edits.items():
        if key == '+':
            new += clone(value) if isinstance(value, (list, tuple)) else [clone(value)]
            continue
        index = int(key)
        if not -len(new) <= index < len(new):
            raise ConfigError(f'{path}[{index}]: the list has only {len(new)} items')
        if isinstance(value, Mapping) and isinstance(new[index], Mapping):
            value = merged(ConfigDict(x=new[index]), ConfigDict(x=value), path)['x']
        new[index] = clone(value)
    return new


def brief(value: Any) -> str:
    """Return a one-line form of a value for messages: scalars as written, the rest in short."""
    if isinstance(value, LazyName):
        return value.dotted_path.rpartition('.')[2]
    if isinstance(value, Mapping):
        inner = f'type={brief(value["type"])}, ...' if 'type' in value else '...' if value else ''
        return f'dict({inner})'
    if isinstance(value, (list, tuple)):
        text = ', '.join(brief(v) for v in value)
        if len(text) > 60:
            return f'{type(value).__name__} of {len(value)}'
        return f'[{text}]' if isinstance(value, list) else f'({text}{"," * (len(value) == 1)})'
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'


def is_same(a: Any, b: Any) -> bool:
    """Whether two config values are equal, comparing functions by their code."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(is_same, a, b))
    if hasattr(a, '__code__') and hasattr(b, '__code__'):
        return a.__code__.co_code == b.__code__.co_code
    return type(a) is type(b) and (a == b or (a != a and b != b))
