"""Find every mistake of a config before anything is built.

The schema is the code: the top-level keys are the runner's arguments, and the arguments of a
component are those of its constructor, with their annotations.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openlab.config.build import (
    accepted_arguments,
    name_of,
    parameter_hints,
    registry_for,
    resolve_type,
    show_signature,
    signature_of,
    wants_raw,
)
from openlab.config.errors import ConfigError, near
from openlab.config.explain import place_of, short_place
from openlab.config.load import Config, top_level_keys
from openlab.config.nodes import ConfigDict, LazyName, brief
from openlab.config.slots import BY_NAME, Slot, find_slots
from openlab.config.typecheck import (
    describe,
    element_hint,
    expected_classes,
    fits,
    is_component,
    misfit,
    options,
)
from openlab.registry import (
    MODELS,
    REGISTRIES,
    Registry,
    UnknownComponentError,
    import_custom,
    import_object,
)


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Attributes:
        path: key path.
        problem: what is wrong, with the value received and what is accepted.
        where: ``file:line``.
        near: names that may have been meant.
        signature: the constructor in question.
    """

    path: str
    problem: str
    where: str = ''
    near: tuple[str, ...] = ()
    signature: str = ''

    def __str__(self) -> str:
        where = f' ({self.where})' if self.where else ''
        meant = f'; did you mean {" or ".join(self.near)}?' if self.near else ''
        text = f'{self.path}{where}: {self.problem}{meant}'
        return f'{text}\n    {self.signature}' if self.signature else text


class CheckError(ConfigError):
    """All mistakes of a config in one message; ``findings`` holds them one by one."""

    def __init__(self, findings: list[Finding], filename: str = ''):
        self.findings = findings
        count = '1 mistake' if len(findings) == 1 else f'{len(findings)} mistakes'
        head = f'{filename or "the config"} has {count}:'
        super().__init__('\n'.join([head, *map(str, findings)]))


def check_config(cfg: Mapping[str, Any]) -> None:
    """Check a whole config: keys, components, arguments and the types of their values.

    Modules named in ``custom_imports`` are imported first. Nothing is built.

    Raises:
        CheckError: with all findings; it is a ``ConfigError``.
    """
    findings = list(dict.fromkeys(Checker(cfg).run()))
    if findings:
        raise CheckError(findings, getattr(cfg, 'filename', ''))


class Checker:
    """Walks a config and collects findings.

    Args:
        cfg: the config.
    """

    def __init__(self, cfg: Mapping[str, Any]):
        self.cfg = cfg
        self.findings: list[Finding] = []
        self.done: set[str] = set()

    def run(self) -> list[Finding]:
        """Check everything; return what was found."""
        self._top_level()
        try:
            import_custom(self.cfg.get('custom_imports'))
        except ImportError as error:
            self.add('custom_imports', str(error))
        for path, value, slot in list(find_slots(self.cfg)):
            self.done.add(path)
            self._slot(path, value, slot)
        return self.findings

    def add(
        self, path: str, problem: str, names: Iterable[str] = (), target: Any = None,
        where: str = '',
    ) -> None:
        """Note a finding."""
        signature = '' if target is None else show_signature(target)
        place = where or (place_of(self.cfg, path) if isinstance(self.cfg, Config) else '')
        self.findings.append(Finding(path, problem, place, tuple(names), signature))

    def _top_level(self) -> None:
        keys = top_level_keys()
        variables = getattr(self.cfg, 'variables', {})
        hints = _runner_hints()
        for key, value in self.cfg.items():
            if key not in keys:
                if not str(key).startswith('_'):
                    problem = 'unknown key: the runner has no such argument, and nothing reads it'
                    self.add(key, problem, near(key, [*keys, *variables]))
            elif key in hints and (expected := misfit(value, hints[key])):
                self.add(key, f'expected {expected}, got {brief(value)}')
        if 'model' not in self.cfg:
            self.add('model', 'missing: every config needs a model')

    def _slot(self, path: str, value: Any, slot: Slot) -> None:
        if not isinstance(value, Mapping):
            if slot.registry is not None and value is not None and isinstance(
                value, (str, int, float, list, tuple)
            ):
                self.add(path, f'expected a dict with "type", got {brief(value)}')
            return
        given, known = slot.given, (*slot.known, *slot.filled)
        if 'type' in value and slot.registry is not None:
            base = import_object(slot.base) if slot.base else None
            self.component(path, value, slot.registry, base, given, known, slot.filled)
        elif slot.default is not None:
            target = self._default(slot, value)
            self.arguments(path, value, target, slot.registry or MODELS, given, known, slot.filled)
        elif slot.path == 'default_hooks.*':
            self._default_hook(path, value, slot)
        elif slot.registry is not None:
            self.add(path, f'a {slot.registry.name} needs a "type"; got keys {", ".join(value)}')
        else:
            for key in value:
                if key not in slot.known:
                    self.add(f'{path}.{key}', f'unknown key; known: {", ".join(slot.known)}',
                             near(key, slot.known))

    @staticmethod
    def _default(slot: Slot, value: Mapping) -> Any:
        if slot.path == 'train_cfg' and 'max_iters' in value:
            return import_object('openlab.engine.loops.IterTrainLoop')
        assert slot.default is not None
        return import_object(slot.default)

    def _default_hook(self, path: str, value: Mapping, slot: Slot) -> None:
        """Keys for one of the runner's own hooks, whose type it knows."""
        defaults = import_object('openlab.engine.runner.DEFAULT_HOOKS')
        name = path.rpartition('.')[2]
        if name in defaults:
            merged = ConfigDict({**defaults[name], **value})
            self.component(path, merged, slot.registry or MODELS, None)
        else:
            self.add(path, 'a hook of your own needs a "type"', near(name, defaults))

    def component(
        self, path: str, cfg: Mapping, registry: Registry, base: Any = None,
        given: tuple[str, ...] = (), known: tuple[str, ...] = (), filled: tuple[str, ...] = (),
        is_fed: bool = False, is_partial: bool = False,
    ) -> None:
        """Check one dict with a ``type``.

        Args:
            path: its key path.
            cfg: the dict.
            registry: where a bare name is looked up.
            base: class, or tuple of classes, that it must be derived from.
            given: arguments that its builder supplies.
            known: keys that its builder takes out.
            filled: required arguments that its builder derives.
            is_fed: whether a sibling before it may supply ``in_channels``.
            is_partial: whether its builder adds arguments that are not known here.
        """
        try:
            target = resolve_type(cfg['type'], registry)
        except UnknownComponentError as error:
            self._unknown(path, cfg['type'], registry, error)
            return
        except (ImportError, AttributeError) as error:
            self.add(f'{path}.type', f'{brief(cfg["type"])} cannot be imported: {error}')
            return
        if not callable(target):
            self.add(f'{path}.type', f'{brief(cfg["type"])} is {describe(type(target))}, which '
                                     f'cannot be built')
            return
        if base is not None and isinstance(target, type) and not issubclass(target, base):
            wanted = ' or '.join(c.__name__ for c in (base if isinstance(base, tuple) else (base,)))
            self.add(f'{path}.type', f'expected a {wanted}, got {name_of(target)}'
                                     f'{_kind(target)}', target=target)
            return
        self.arguments(path, cfg, target, registry, given, known, filled, is_fed, is_partial)

    def _unknown(
        self, path: str, name: Any, registry: Registry, error: UnknownComponentError
    ) -> None:
        names = list(error.near)
        if isinstance(name, str) and '.' not in name:
            # Nearer in another kind than in its own?
            for other in REGISTRIES.values():
                names += [n for n in near(name, other.entries()) if n not in names]
            names = near(name, names) or names[:3]
        text = str(error).partition('; did you mean')[0]
        where = getattr(name, 'where', '')
        imported = f' (imported at {_short(where)})' if where else ''
        self.add(f'{path}.type', f'{text}{imported}', names)

    def arguments(
        self, path: str, cfg: Mapping, target: Any, registry: Registry,
        given: tuple[str, ...] = (), known: tuple[str, ...] = (), filled: tuple[str, ...] = (),
        is_fed: bool = False, is_partial: bool = False,
    ) -> None:
        """Check the keys and values of a dict against the signature of what it is for."""
        accepted = accepted_arguments(target)
        hints = parameter_hints(target)
        parameters = signature_of(target).parameters
        is_fed_inside = is_fed
        ordered = [n for n in parameters if n in cfg] + [n for n in cfg if n not in parameters]
        for key in ordered:
            here = f'{path}.{key}'
            if key == 'type' or (key in known and key not in (accepted or ())):
                continue
            if key in given:
                self.add(here, f'{name_of(target)} is given {key!r} by the engine; leave it out',
                         target=target)
            elif accepted is not None and key not in accepted:
                self.add(here, f'{name_of(target)} has no argument {key!r}',
                         near(key, [*accepted, *known]), target)
            elif here not in self.done and not self._is_slot(here):
                self.value(here, cfg[key], hints.get(key, Any), registry, target, is_fed_inside)
            is_fed_inside = is_fed_inside or (is_component(cfg[key]) and not wants_raw(
                hints.get(key, Any)))
        if is_partial:
            return
        for name, parameter in parameters.items():
            if _is_required(parameter) and name not in (*cfg, *given, *filled) and not (
                name == 'in_channels' and is_fed
            ):
                self.add(path, f'{name_of(target)} needs {name!r}'
                               f'{_annotation(hints.get(name))}', target=target)

    def _is_slot(self, path: str) -> bool:
        return any(path == p for p, _, _ in find_slots(self.cfg))

    def value(
        self, path: str, value: Any, hint: Any, registry: Registry, target: Any,
        is_fed: bool = False,
    ) -> None:
        """Check one argument, and what is inside it."""
        if is_component(value):
            name = path.rpartition('.')[2].partition('[')[0]
            kind = registry_for(hint, BY_NAME.get(name, registry))
            raw = wants_raw(hint)
            base = () if raw else expected_classes(hint)
            if base and not raw and all(issubclass(b, _SCALARS) for b in base):
                self._misfit(path, value, hint, target)
                return
            base = tuple(b for b in base if not issubclass(b, _SCALARS))
            self.component(path, value, kind, base or None, is_fed=is_fed or raw, is_partial=raw)
            return
        if isinstance(value, LazyName):
            try:
                value = import_object(value.dotted_path)
            except (UnknownComponentError, ImportError) as error:
                self.add(path, str(error))
                return
        if isinstance(value, (list, tuple)) and not _sequence_is_wrong(value, hint):
            for i, item in enumerate(value):
                self.value(f'{path}[{i}]', item, element_hint(hint, i), registry, target, is_fed)
            return
        if isinstance(value, Mapping) and not wants_raw(hint) and not fits(value, hint):
            classes = [c for c in expected_classes(hint) if not issubclass(c, _SCALARS)]
            if classes:
                names = ' or '.join(c.__name__ for c in classes)
                self.add(path, f'expected a {names}: a dict needs a "type"', target=target)
                return
        if not fits(value, hint):
            self._misfit(path, value, hint, target)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self.value(f'{path}.{key}', inner, Any, registry, target, is_fed)

    def _misfit(self, path: str, value: Any, hint: Any, target: Any) -> None:
        self.add(path, f'expected {describe(hint)}, got {brief(value)} '
                       f'({type(value).__name__})', target=target)


_SCALARS = (bool, int, float, str, bytes, complex, list, tuple, dict)


def _sequence_is_wrong(value: Any, hint: Any) -> bool:
    """Whether a list stands where no list may, or has the wrong length."""
    return not any(fits(value, _hollow_hint(o)) for o in options(hint))


def _hollow_hint(hint: Any) -> Any:
    """An annotation that asks only for the container; its elements are looked at one by one."""
    import typing

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return tuple[tuple(Any for _ in args)]  # type: ignore[misc]
    return origin if isinstance(origin, type) and origin is not type else hint


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY
    ) and parameter.name != 'self'


def _annotation(hint: Any) -> str:
    return '' if hint in (None, Any) else f' ({describe(hint)})'


def _kind(target: type) -> str:
    """Return in which registry a class is, for a message about the wrong kind."""
    for registry in REGISTRIES.values():
        entry = registry.entries().get(target.__name__)
        if entry is not None and entry.module == target.__module__:
            return f', which is a {registry.name}'
    return ''


def _short(where: str) -> str:
    from openlab.config.nodes import Writer

    file, _, line = where.rpartition(':')
    return short_place(Writer(file, int(line))) if line.isdigit() else where


def _runner_hints() -> Mapping[str, Any]:
    # By name, as the table of slots names what it describes: the engine builds on this package.
    hints = parameter_hints(import_object('openlab.engine.runner.Runner'))
    return {k: v for k, v in hints.items() if k != 'return'}
