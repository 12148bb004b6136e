"""Find a config, load it with its overrides, and hand it over as one object."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from openlab.config.errors import ConfigError, hint, near
from openlab.config.evaluate import SUFFIXES, Evaluated, evaluate, settle
from openlab.config.nodes import (
    ConfigDict,
    LazyName,
    Writer,
    as_node,
    brief,
    clone,
    is_same,
)
from openlab.config.override import (
    Override,
    Step,
    apply_override,
    join_path,
    parse_override,
    parse_path,
)
from openlab.shipped import shipped_root, zoo_names

PACKAGE = Path(__file__).resolve().parent.parent
_KEYS = tuple(  # until the runner's source says it better, see top_level_keys
    'model work_dir experiment_name train_dataloader val_dataloader test_dataloader train_cfg '  # noqa: SIM905
    'val_cfg test_cfg optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks '
    'custom_hooks load_from resume randomness strategy compile loggers auto_scale_lr tta '
    'custom_imports log_level env'.split()
)
DELETED = object()


class ConfigWarning(UserWarning):
    """Something in a config that works but probably not as meant."""


class Config(ConfigDict):
    """A loaded config: its top-level keys as an attribute dict.

    Attributes:
        filename: the file it was loaded from, or an empty string.
        variables: helper variables of the config (``num_classes``), which other keys refer to.
        overrides: the edits applied, as the user wrote them.
        files: all files it was made of, bases first.
    """

    __slots__ = ('filename', 'files', 'overrides', 'variables')
    filename: str
    variables: ConfigDict
    overrides: tuple[str, ...]
    files: tuple[str, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Config:
        """Give the attributes their defaults, so that ``Config(dict(...))`` works as well."""
        self = super().__new__(cls)
        defaults = {'filename': '', 'variables': ConfigDict(), 'overrides': (), 'files': ()}
        for name, value in defaults.items():
            object.__setattr__(self, name, value)
        return self  # type: ignore[return-value]

    def _slots(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Config.__slots__}

    def to_plain(self) -> dict[str, Any]:
        """Return the config as plain JSON data: components by dotted path, tuples as lists.

        Raises:
            ConfigError: for a value that has no plain form, such as a function made in a config.
        """
        from openlab.config.plain import to_plain

        return to_plain(self)

    def dump(self, path: str | Path) -> None:
        """Write the config as plain data, in the format of the file's suffix.

        Raises:
            ConfigError: for an unknown suffix, or a value that has no plain form.
        """
        from openlab.config.plain import dump_text

        path = Path(path)
        path.write_text(dump_text(self, path.suffix.lstrip('.')), encoding='utf-8')

    def writers(self, key: Any) -> list[Writer]:
        """Every writer of ``key`` (a top-level key, a variable or a path), in order."""
        return trail(self, str(key))[-1][2]

    def explain(self, key: str) -> str:
        """Tell who wrote ``key``, in order, the winner marked; see ``openlab config explain``.

        Raises:
            ConfigError: if there is no such key.
        """
        from openlab.config.explain import explain

        return explain(self, key)


def trail(cfg: Config, key: str) -> list[tuple[str, Any, list[Writer]]]:
    """Follow a key path; return (path so far, value, writers) for each step of it.

    The value of a key that was deleted is ``DELETED``; its writers are still known.

    Raises:
        ConfigError: if the path leads nowhere.
    """
    steps = parse_path(key)
    node: Any = cfg
    if steps[0] not in cfg and steps[0] in cfg.variables:
        node = cfg.variables
    found = []
    for depth, step in enumerate(steps):
        here = join_path(steps[: depth + 1])
        if isinstance(node, Mapping):
            step = step if step in node else str(step)
            if step not in node and ConfigDict.writers(as_node(node), step):
                found.append((here, DELETED, ConfigDict.writers(as_node(node), step)))
                break
            if step not in node:
                known = [*node, *cfg.variables] if depth == 0 else list(node)
                owner = join_path(steps[:depth]) or 'the config'
                raise ConfigError(f'{owner} has no key {step!r}{hint(str(step), known)}')
        elif not isinstance(node, (list, tuple)):
            raise ConfigError(f'{join_path(steps[:depth])} is {brief(node)}: no {here}')
        elif not isinstance(step, int) or not -len(node) <= step < len(node):
            raise ConfigError(f'{join_path(steps[:depth])} is a list of {len(node)}: no {here}')
        # ConfigDict's own method: a Config's takes whole paths.
        writers = ConfigDict.writers(node, step) if isinstance(node, ConfigDict) else []
        node = node[step]
        found.append((here, node, writers))
    return found


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a config file, pure-Python or text, and apply overrides to it.

    Args:
        path: a file, or the name of a shipped config such as ``quickstart/classification``.
        overrides: edits such as ``model.head.num_classes=20``; see ``openlab.config.override``.
            They hold wherever the config refers to what they edit.

    Raises:
        ConfigError: for any mistake in the config or the overrides.
    """
    file = find_config(path)
    edits = [parse_override(text) for text in overrides]
    round_ = None

    def start(handed: Mapping[Any, Mapping[str, Any]]) -> _Overriding:
        nonlocal round_
        round_ = _Overriding(file, edits, handed)
        return round_

    result = settle(start, str(file))
    assert round_ is not None
    cfg = _finish(file, result, round_.values, edits)
    for note in round_.notes:
        warnings.warn(note, ConfigWarning, stacklevel=2)
    _warn_of_idle_overrides(cfg, file, edits, result)
    return cfg


class _Overriding:
    """One round of a config with overrides, which act like a child config of it."""

    def __init__(
        self, path: Path, edits: list[Override], handed: Mapping[Any, Mapping[str, Any]]
    ):
        self.path, self.edits, self.handed = path, edits, handed
        self.values = ConfigDict()

    def run(self) -> Evaluated:
        self.result = evaluate(self.path, self.handed.get(self.path, {}))
        self.values = clone(self.result.own)
        self.notes: list[str] = []
        for edit in self.edits:
            for one in self._meant(edit):
                apply_override(self.values, one, is_declared)
        return self.result

    def _meant(self, edit: Override) -> tuple[Override, ...]:
        """The edit itself, or what it comes to if its value names a part of the model."""
        if edit.name != 'model' or not isinstance(edit.value, str) or len(edit.path) < 2:
            return (edit,)
        # Only here: to fit a part in, its class has to be imported.
        from openlab.config.swap import swap_part

        swap = swap_part(self.values, edit)
        if swap is None:
            return (edit,)
        by_hand = [e.path for e in self.edits if e is not edit]
        further = [(e, note) for e, note in swap.further
                   if not any(_overlap(e.path, path) for path in by_hand)]
        self.notes += [note for _, note in further]
        return swap.edit, *(e for e, _ in further)

    def wanted(self) -> dict[Path, dict[str, Any]]:
        names = {e.name for e in self.edits if e.name in self.values} & self.result.reads
        return {self.path: {n: self.values[n] for n in sorted(names)}} if names else {}


def _overlap(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether one of two paths leads through the other."""
    return all(a == b for a, b in zip(one, other))


def _finish(file: Path, result: Evaluated, values: ConfigDict, edits: list[Override]) -> Config:
    keys = top_level_keys()
    cfg = Config()
    for name, value in values.items():
        if name.startswith('_'):
            continue
        home = cfg if name in keys or name not in result.reads else cfg.variables
        dict.__setitem__(home, name, value)
        home._writers[name] = values.writers(name)
    for edit in edits:
        if edit.name in cfg and edit.name not in keys and edit.action != 'add':
            raise ConfigError(
                f'{edit.text}: nothing in the config reads {edit.name!r}'
                f'{hint(edit.name, [*keys, *cfg.variables])}'
            )
    object.__setattr__(cfg, 'filename', str(file))
    object.__setattr__(cfg, 'overrides', tuple(e.text for e in edits))
    object.__setattr__(cfg, 'files', tuple(str(f) for f in dict.fromkeys(result.files)))
    return cfg


def _warn_of_idle_overrides(
    cfg: Config, file: Path, edits: list[Override], result: Evaluated
) -> None:
    """Warn of an override of a variable whose readers did not make it into the config."""
    for edit in edits:
        if edit.name in cfg.variables and edit.action == 'set':
            others = [e for e in edits if e is not edit]
            round_ = None

            def start(handed: Any, others: list[Override] = others) -> _Overriding:
                nonlocal round_
                round_ = _Overriding(file, others, handed)
                return round_

            settle(start, str(file))
            assert round_ is not None
            without = {k: v for k, v in round_.values.items() if k in cfg}
            old = round_.values.get(edit.name)
            if is_same(without, dict(cfg)) and not is_same(old, cfg.variables[edit.name]):
                warnings.warn(
                    f'{edit.text} changes nothing: all that reads {edit.name!r} was replaced later',
                    ConfigWarning, stacklevel=3,
                )


def is_declared(path: tuple[Step, ...], node: Any) -> bool:
    """Whether a key that is absent from a config is nevertheless known by that name.

    Top-level keys are those of the runner; inside a dict with a ``type`` they are the arguments
    of its constructor (which is imported to find out, in this case only); so they are in a dict
    that the engine takes for arguments, such as a dataloader's.
    """
    if len(path) == 1:
        return path[0] in top_level_keys()
    if not isinstance(node, Mapping):
        return False
    from openlab.config.build import accepted_arguments, resolve_type
    from openlab.config.slots import slot_at
    from openlab.registry import UnknownComponentError, import_object

    slot = slot_at(path[:-1])
    if slot is not None and path[-1] in slot.known:
        return True
    try:
        if 'type' in node:
            target = resolve_type(node['type'])
        elif slot is not None and slot.default is not None:
            target = import_object(slot.default)
        else:
            return False
    except (UnknownComponentError, ImportError):
        return False  # check_config says so, with its place
    return path[-1] in (accepted_arguments(target) or ())


@cache
def top_level_keys() -> tuple[str, ...]:
    """Return the keys that a config may have: the runner's arguments, read off its source."""
    file = PACKAGE / 'engine' / 'runner.py'
    if file.is_file():
        for node in ast.parse(file.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ClassDef) and node.name == 'Runner':
                keys = _init_arguments(node)
                if 'model' in keys:
                    return keys
    return _KEYS


def _init_arguments(node: ast.ClassDef) -> tuple[str, ...]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == '__init__':
            arguments = (*item.args.args, *item.args.kwonlyargs)
            return tuple(a.arg for a in arguments if a.arg not in ('self', 'cfg'))
    return ()


def shipped_folder() -> Path | None:
    """Return the folder of the configs that come with openlab, installed or in a checkout."""
    try:
        return shipped_root() / 'configs'
    except FileNotFoundError:
        return None


def shipped_configs() -> list[str]:
    """Return the names of all shipped configs, such as ``quickstart/classification``."""
    folder = shipped_folder()
    if folder is None:
        return []
    files = [f.relative_to(folder) for f in folder.rglob('*') if f.suffix in SUFFIXES]
    return sorted(
        f.with_suffix('').as_posix() for f in files
        if not any(p.startswith('_') for p in f.parts)
    )


def find_config(name: str | Path) -> Path:
    """Return the file that ``name`` means: a path, or a shipped config's name or bare stem.

    Raises:
        ConfigError: if there is none, or several.
    """
    path = Path(name)
    for candidate in (path, *(path.with_name(path.name + s) for s in SUFFIXES if path.name)):
        if candidate.is_file():
            if candidate.suffix not in SUFFIXES:
                raise ConfigError(f'{candidate}: a config is one of {", ".join(SUFFIXES)}')
            return candidate.resolve()
    folder, names = shipped_folder(), shipped_configs()
    wanted = path.with_suffix('') if path.suffix in SUFFIXES else path
    text = wanted.as_posix().removeprefix('./').removeprefix('configs/')
    found = [n for n in names if n == text] or [
        n for n in names if '/' not in text and n.rpartition('/')[2] == text
    ]
    if len(found) > 1:
        raise ConfigError(f'{text!r} names several shipped configs: {", ".join(found)}')
    if not found or folder is None:
        stems = [n.rpartition('/')[2] for n in names]
        raise ConfigError(
            f'no config file {str(name)!r} here, and no shipped one of that name'
            f'{hint(text, names) or hint(wanted.name, stems)}{_zoo_hint(text)}'
        )
    return next(f for s in SUFFIXES if (f := folder / (found[0] + s)).is_file()).resolve()


def _zoo_hint(name: str) -> str:
    """What the zoo has under a name that is no config's, or near it."""
    try:
        names = zoo_names()
    except FileNotFoundError:  # a broken installation is not what the user asked about
        return ''
    by_name = {bare: full for full in names for bare in (full, full.partition('/')[2])}
    if name in by_name:
        return (f'; {name} is an entry of the zoo: openlab zoo show {name} tells all of it, '
                f'zoo://{name} names its weights')
    found = [by_name[one] for one in near(name, by_name)]
    return f'; the zoo has {" and ".join(dict.fromkeys(found))}' if found else ''


__all__ = [
    'Config', 'ConfigDict', 'ConfigWarning', 'LazyName', 'find_config', 'load_config',
    'shipped_configs', 'shipped_folder', 'top_level_keys', 'trail',
]
