"""Execute a config and its bases so that references hold until all overrides are in.

A config is executed statement by statement. What a child config (or ``--set``) makes of a name
of its base is *handed to the base*: the base is executed once more, and right after each of its
statements that writes this name, the name is bound to the child's value. So whatever the base
computes from the name is computed from its final value: ``num_classes = 20`` in a child reaches
every place where the base wrote ``num_classes``; so does an edit of a shared pipeline. Since a
handed value may change what the child computes from the base, this is repeated until nothing
changes; two rounds are usual, and no second one is run where the base does not read the name.

Three rules follow, and are all there is to know:

* A change flows from a name to the statements after it that read the name, never back. A child
  gets its own copy of each base value, and an override copies what it edits, so
  ``test_dataloader.batch_size = 1`` in a child leaves the ``val_dataloader`` alone which the
  base had made it equal to.
* The child sees its base's own value: ``lr = lr * 2`` doubles once.
* A name that is computed from its own consequences is an error, not an endless loop.

Rejected: proxies that stand for a value until the end (they break ``if``, arithmetic and
``isinstance`` in a config); textual substitution (mmengine's ``{{}}``, kept only to read old
configs); keeping the copies of parse time (mmengine's way, which is the pain to be cured).
"""

from __future__ import annotations

import importlib.util
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openlab.config.errors import ConfigError, hint
from openlab.config.nodes import (
    ConfigDict,
    Writer,
    as_node,
    brief,
    clone,
    is_same,
    merged,
    writing,
)
from openlab.config.source import (
    BaseImport,
    Source,
    Statement,
    expand_text,
    namespace,
    parse_source,
)

ROUNDS = 12
SUFFIXES = ('.py', '.yaml', '.yml', '.json')


@dataclass
class Evaluated:
    """A config file and its bases, executed.

    Attributes:
        own: settings before what was handed down, with every writer of each.
        imports: imported and defined names, which are no settings.
        reads: names that some statement of the file or its bases reads.
        files: the files executed, bases first.
    """

    own: ConfigDict = field(default_factory=ConfigDict)
    imports: dict[str, Any] = field(default_factory=dict)
    reads: set[str] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)


def evaluate(path: Path, given: Mapping[str, Any], chain: tuple[Path, ...] = ()) -> Evaluated:
    """Execute a config file.

    Args:
        path: the file, absolute.
        given: final values of names, from the config that builds on this one.
        chain: files being executed, to detect a cycle.

    Raises:
        ConfigError: for any mistake in the config, naming file and line.
    """
    if path in chain:
        cycle = ' -> '.join(p.name for p in (*chain[chain.index(path):], path))
        raise ConfigError(f'configs build on each other in a circle: {cycle}')
    runner = _PythonFile if path.suffix == '.py' else _TextFile
    return settle(lambda handed: runner(path, given, handed, (*chain, path)), str(path))


def settle(start: Any, what: str) -> Evaluated:
    """Run rounds until what is handed to the bases no longer changes.

    Args:
        start: makes a round from the values handed so far; a round has ``run() -> Evaluated``
            and afterwards ``wanted() -> handed values``.
        what: name of the config, for the message.
    """
    handed: dict[Any, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        round_ = start(handed)
        result = round_.run()
        wanted = round_.wanted()
        if is_same(wanted, handed):
            return result
        changing = [
            n for key, values in wanted.items() for n, v in values.items()
            if not is_same(v, handed.get(key, {}).get(n))
        ]
        handed = wanted
    raise ConfigError(
        f'{what}: {", ".join(sorted(set(changing)))} is computed from values that its base '
        f'computes from it; give it a value that does not depend on itself, or another name'
    )


class _File:
    """One round of one file."""

    def __init__(
        self, path: Path, given: Mapping[str, Any], handed: Mapping[Any, Mapping[str, Any]],
        chain: tuple[Path, ...],
    ):
        self.path, self.given, self.handed, self.chain = path, given, handed, chain
        self.result = Evaluated()
        self.written: set[str] = set()
        self.bases: dict[Path, Evaluated] = {}
        self.origin: dict[str, list[tuple[Path, str]]] = {}  # name here -> (base, name there)

    def run(self) -> Evaluated:
        raise NotImplementedError

    def wanted(self) -> dict[Path, dict[str, Any]]:
        """Values to hand to each base: what this file and those above it made of its names."""
        wanted: dict[Path, dict[str, Any]] = {}
        for name, origins in self.origin.items():
            for base, base_name in origins:
                if base_name not in self.bases[base].reads:
                    continue
                if name in self.given:
                    wanted.setdefault(base, {})[base_name] = self.given[name]
                elif name in self.written and name in self.result.own:
                    wanted.setdefault(base, {})[base_name] = self.result.own[name]
        return wanted

    def base(self, path: Path, where: str) -> Evaluated:
        if not path.is_file():
            near_files = [p.name for p in path.parent.glob('*') if p.suffix in SUFFIXES]
            raise ConfigError(f'{where}: no base config {path}{hint(path.name, near_files)}')
        path = path.resolve()
        if path not in self.bases:
            self.bases[path] = evaluate(path, self.handed.get(path, {}), self.chain)
            self.result.files += self.bases[path].files
            self.result.reads |= self.bases[path].reads
        return self.bases[path]

    def merge_bases(self, paths: Any, where: str) -> ConfigDict:
        """Evaluate the files of a ``_base_`` list; return their settings together."""
        paths = [paths] if isinstance(paths, str) else paths
        if not isinstance(paths, (list, tuple)) or not all(isinstance(p, str) for p in paths):
            raise ConfigError(f'{where}: _base_ is a path or a list of paths, not {paths!r}')
        together = ConfigDict()
        for relative in paths:
            path = self.path.parent / expand_text(relative, self.path)
            own = self.base(path, where).own
            for name in own:
                if name in together and not is_same(own[name], together[name]):
                    other = self.origin[name][0][0]
                    raise ConfigError(f'{where}: {name} is set by two bases, {other} and {path}')
                self.origin.setdefault(name, []).append((path.resolve(), name))
            together.update(clone(own))
        return together

    def merge_own(self, base: ConfigDict, own: ConfigDict) -> None:
        """Merge this file's settings over those of its ``_base_``."""
        self.written |= set(own)
        try:
            self.result.own = merged(base, own)
        except ConfigError as error:
            raise ConfigError(f'{self.path}: {error}') from None


class _TextFile(_File):
    def run(self) -> Evaluated:
        from openlab.config.text import read_text_config

        own = read_text_config(self.path)
        base = ConfigDict()
        if '_base_' in own:
            base = self.merge_bases(own['_base_'], f'{self.path}:{own.writers("_base_")[0].line}')
            own = clone(own)
            dict.pop(own, '_base_')
        final = ConfigDict({**base, **{k: v for k, v in self.given.items() if k in base}})
        self.merge_own(base, self._expand(own, final))
        self.result.files.append(self.path)
        return self.result

    def _expand(self, value: Any, base: ConfigDict) -> Any:
        if isinstance(value, ConfigDict):
            for key in value:
                dict.__setitem__(value, key, self._expand(value[key], base))
            return value
        if isinstance(value, list):
            return [self._expand(v, base) for v in value]
        if not (isinstance(value, str) and '{{' in value):
            return value
        text = expand_text(value, self.path)
        if '{{' not in text:
            return text
        with _located(self.path, 0):
            code = _placeholder_code(text, str(self.path))
            self.result.reads |= set(code[1])
            exec(code[0], scope := {'_base_': base})
        return clone(scope['value'])


def _placeholder_code(text: str, file: str) -> tuple[types.CodeType, tuple[str, ...]]:
    import ast

    from openlab.config.source import _Rewriter, read_names

    tree = ast.parse(f'value = {text!r}')
    reads = read_names(tree)
    tree = ast.fix_missing_locations(_Rewriter(Source(Path(file))).visit(tree))
    return compile(tree, file, 'exec'), reads


class _PythonFile(_File):
    def run(self) -> Evaluated:
        source = parse_source(self.path)
        self.scope = namespace(source)
        self.base_settings: ConfigDict | None = None
        for statement in source.statements:
            if statement.bases:
                for base in statement.bases:
                    self._import_base(base)
            else:
                self._execute(statement)
        self.result.reads |= source.reads
        self.result.files.append(self.path)
        if self.base_settings is not None:
            own = self.result.own
            dict.pop(own, '_base_', None)
            self.merge_own(self.base_settings, own)
        return self.result

    def _import_base(self, wanted: BaseImport) -> None:
        where = f'{self.path}:{wanted.line}'
        path = find_base(self.path, wanted)
        base = self.base(path, where)
        for name, alias in wanted.names:
            if name == '*':
                names = [n for n in (*base.own, *base.imports) if not n.startswith('_')]
                pairs = [(n, n) for n in names]
            else:
                if name not in base.own and name not in base.imports:
                    raise ConfigError(f'{where}: {path} has no {name!r}{hint(name, base.own)}')
                pairs = [(name, alias)]
            for there, here in pairs:
                self._take(base, path.resolve(), there, here, where)

    def _take(self, base: Evaluated, path: Path, there: str, here: str, where: str) -> None:
        """Bind a copy of a base's name in this file."""
        if there in base.imports:
            self.result.imports[here] = self.scope[here] = base.imports[there]
            return
        own = self.result.own
        if here in own and here in self.origin:
            self._refuse_conflict(base, path, there, here, where)
        dict.__setitem__(own, here, clone(base.own[there]))
        own._writers[here] = base.own.writers(there)
        self.origin.setdefault(here, []).append((path, there))
        self.scope[here] = clone(self.given[here]) if here in self.given else own[here]

    def _refuse_conflict(
        self, base: Evaluated, path: Path, there: str, here: str, where: str
    ) -> None:
        """Two bases may not disagree on a name, unless this file settles it anew."""
        settles = any(here in s.binds for s in parse_source(self.path).statements)
        if not settles and not is_same(self.result.own[here], base.own[there]):
            raise ConfigError(
                f'{where}: {here} is set by two bases with different values, '
                f'{self.origin[here][0][0]} ({brief(self.result.own[here])}) and {path} '
                f'({brief(base.own[there])}); set it here, or import only one of them'
            )

    def _execute(self, statement: Statement) -> None:
        own, scope = self.result.own, self.scope
        names = (*statement.binds, *statement.edits)
        for name in names:
            if name in own:  # continue from the own value, not from the one handed down
                scope[name] = own[name]
        assert statement.code is not None
        reads = tuple(n for n in statement.reads if n not in names and n not in self.result.imports)
        place = Writer(str(self.path), statement.line, reads=reads)
        with writing(place), _located(self.path, statement.line, scope):
            exec(statement.code, scope)
        if '_base_' in statement.binds:
            where = f'{self.path}:{statement.line}'
            self.base_settings = self.merge_bases(scope['_base_'], where)
            known = {k: v for k, v in self.given.items() if k in self.base_settings}
            scope['_base_'] = clone(ConfigDict({**self.base_settings, **known}))
            return
        for name in names:
            self._note(statement, name, place)

    def _note(self, statement: Statement, name: str, place: Writer) -> None:
        """Take over what a statement made of ``name``, then bind what was handed down."""
        own, scope = self.result.own, self.scope
        if name not in scope:
            dict.pop(own, name, None)
            return
        value = scope[name] = as_node(scope[name])
        if not statement.is_setting or (name in self.result.imports and name in statement.edits):
            self.result.imports[name] = value
            dict.pop(own, name, None)
            return
        if name in statement.edits and name not in own:
            return  # a method call on something that is no setting, such as a module
        self.result.imports.pop(name, None)
        if name in statement.binds and isinstance(value, ConfigDict):
            self._follow(value, own.get(name), place)
        dict.__setitem__(own, name, value)
        text = brief(value) if name in statement.binds else statement.text
        own.record(name, replace(place, text=text))
        self.written.add(name)
        if name in self.given:
            scope[name] = clone(self.given[name])

    @staticmethod
    def _follow(value: ConfigDict, older: Any, place: Writer) -> None:
        from openlab.config.nodes import _is_fresh

        if _is_fresh(value, place):
            value.follow(older)


class _located:
    """Turn an exception in a config into one that names its file and line."""

    def __init__(self, path: Path, line: int, scope: Mapping[str, Any] | None = None):
        self.path, self.line, self.scope = path, line, scope or {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, tb: Any) -> None:
        if not isinstance(error, Exception):
            return
        line = self.line
        for frame in traceback.extract_tb(tb):
            if frame.filename == str(self.path) and frame.lineno:
                line = frame.lineno
        text = str(error)
        if isinstance(error, NameError) and error.name:
            text += hint(error.name, [n for n in self.scope if not n.startswith('__')])
        where = f'{self.path}:{line}' if line else str(self.path)
        name = '' if isinstance(error, ConfigError) else f'{type(error).__name__}: '
        raise ConfigError(f'{where}: {name}{text}') from error


def find_base(path: Path, wanted: BaseImport) -> Path:
    """Return the file that a ``from ... import`` inside ``read_base`` means.

    Raises:
        ConfigError: if there is none.
    """
    parts = wanted.module.split('.') if wanted.module else []
    if wanted.level:
        folder = path.parent
        for _ in range(wanted.level - 1):
            folder = folder.parent
        candidates = [folder.joinpath(*parts)]
    else:
        candidates = _absolute_candidates(path, parts)
    for candidate in candidates:
        for suffix in SUFFIXES:
            file = candidate.with_name(candidate.name + suffix)
            if file.is_file():
                return file
    shown = candidates[0] if candidates else Path(*parts)
    neighbours = [p.stem for p in shown.parent.glob('*') if p.suffix in SUFFIXES]
    raise ConfigError(
        f'{path}:{wanted.line}: no base config {shown}.py{hint(shown.name, neighbours)}'
    )


def _absolute_candidates(path: Path, parts: list[str]) -> list[Path]:
    from openlab.config.load import shipped_folder

    found = []
    if parts[:2] == ['openlab', 'configs'] or parts[:1] == ['configs']:
        shipped = shipped_folder()
        if shipped is not None:
            found.append(shipped.joinpath(*parts[1 + (parts[0] == 'openlab'):]))
    # Only the top package is looked up: finding a submodule would import its parents.
    spec = importlib.util.find_spec(parts[0])
    for folder in (spec.submodule_search_locations if spec else None) or ():
        found.append(Path(folder, *parts[1:]))
    found += [folder.joinpath(*parts) for folder in path.parents]
    return found
