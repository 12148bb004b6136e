"""Write a config that inherits another one and sets some keys anew."""

from __future__ import annotations

import keyword
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from openlab.config.check import check_config
from openlab.config.errors import ConfigError
from openlab.config.load import (
    Config,
    ConfigWarning,
    find_config,
    load_config,
    shipped_folder,
)
from openlab.config.nodes import LazyName, brief, clone, is_same
from openlab.config.override import format_value, join_path, parse_override
from openlab.config.resolve import build_on_meta

_WIDTH = 100


def swapped_name(config: str | Path, edits: Sequence[str]) -> str:
    """File name of a config with other parts: ``detection_convnext_t.py``."""
    values = [str(parse_override(text).value) for text in edits]
    words = [find_config(config).stem, *(v.rpartition('://')[2] for v in values)]
    return '_'.join(re.sub(r'\W+', '_', word).strip('_').lower() for word in words) + '.py'


def write_swapped(config: str | Path, edits: Sequence[str], out: str | Path) -> str:
    """Write a config that inherits ``config`` and has other parts; returns its text.

    Args:
        config: a file, or the name of a shipped config.
        edits: such as ``model.backbone=ConvNeXt-T``; see ``openlab.config.swap``.
        out: the file to write.

    Raises:
        ConfigError: if the file exists, or the config would have a mistake.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f'{out} exists already; remove it, or choose another name by -o')
    if out.suffix != '.py':
        raise ConfigError(f'{out}: the config is written as Python, so its name must end in .py')
    text, wanted = swapped_text(config, edits, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding='utf-8')
    if not is_same(load_config(out).to_plain(), wanted.to_plain()):
        raise ConfigError(f'{out} loads, but not to the same config as the edits give; see '
                          f'openlab config diff')
    return text


def swapped_text(
    config: str | Path, edits: Sequence[str], out: str | Path
) -> tuple[str, Config]:
    """The text of such a config, and what it loads to; its model was built, on no device."""
    base, out = find_config(config), Path(out)
    for text in edits:
        if parse_override(text).action != 'set':
            raise ConfigError(f'{text}: a swap sets a key, as in model.backbone=ConvNeXt-T')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', ConfigWarning)
        cfg = load_config(base, edits)
        before = load_config(base)
    check_config(cfg)
    build_on_meta(clone(cfg))
    paths = [parse_override(text).path for text in edits]
    if 'model' in before and 'model' in cfg:
        paths += _changed(before['model'], cfg['model'], ('model',), paths)
    paths += [(key,) for key in cfg if (key,) not in paths and key != 'model'
              and not is_same(before.get(key), cfg[key])]
    paths += [(key,) for key in before if key not in cfg]
    imports: dict[str, str] = {}
    lines = []
    for path in paths:
        value: Any = cfg if path[0] in cfg else cfg.variables
        for step in path:
            value = value[step]
        head = join_path(path)
        lines.append(f'{head} = {to_source(value, imports, len(head) + 3)}')
    notes = [str(w.message) for w in caught if issubclass(w.category, ConfigWarning)]
    return _layout(base, out, str(config), edits, imports, lines, notes), cfg


def _changed(before: Any, after: Any, path: tuple[str | int, ...],
             edited: Sequence[tuple[str | int, ...]]) -> list[tuple[str | int, ...]]:
    """Places below ``path`` that differ, besides those that are edited anyway."""
    if path in edited or is_same(before, after):
        return []
    leads_to_edit = any(place[: len(path)] == path for place in edited)
    if isinstance(before, Mapping) and isinstance(after, Mapping) and (
            leads_to_edit or before.keys() == after.keys()):
        return [place for key in after
                for place in _changed(before.get(key), after[key], (*path, key), edited)]
    return [path]


def _layout(base: Path, out: Path, config: str, edits: Sequence[str], imports: Mapping[str, str],
            lines: Sequence[str], notes: Sequence[str]) -> str:
    title = ', '.join(f'{parse_override(e).value} as {e.partition("=")[0]}' for e in edits)
    inherits = _inherit(base, out)
    packages = ['from mmengine.config import read_base'] if 'read_base' in inherits else []
    packages += [f'from {p.rpartition(".")[0]} import {name}' for name, p in sorted(
        imports.items(), key=lambda item: item[1])]
    # The order that import sorters want: other projects, then our own.
    groups = [[p for p in packages if not p.startswith('from openlab')],
              [p for p in packages if p.startswith('from openlab')]]
    head = '\n\n'.join('\n'.join(group) for group in groups if group)
    comment = ''.join(fill(f'# {n}.', _WIDTH, subsequent_indent='# ') + '\n' for n in notes)
    return (f'"""{fill(f"{base.stem} with {title}.", _WIDTH - 3)}\n\n'
            f'* Made by: ``openlab config swap {config} {" ".join(edits)}``\n'
            f'* Command: ``openlab train {out}``\n"""\n\n'
            f'{head}\n\n{inherits}\n\n{lines[0]}\n{comment}' + ''.join(
                f'{line}\n' for line in lines[1:]))


def _inherit(base: Path, out: Path) -> str:
    """The statement that takes over everything of a config."""
    folder = shipped_folder()
    out = out.resolve()
    if folder is not None and base.is_relative_to(folder) and not out.is_relative_to(folder):
        parts = ['openlab', 'configs', *base.relative_to(folder).with_suffix('').parts]
        module = '.'.join(parts)
    else:
        relative = Path(os.path.relpath(base.with_suffix(''), out.parent))
        ups = relative.parts.count('..')
        parts = list(relative.parts[ups:])
        module = '.' * (ups + 1) + '.'.join(parts)
    if all(p.isidentifier() and not keyword.iskeyword(p) for p in parts):
        return f'with read_base():\n    from {module} import *'
    raise ConfigError(
        f'{base}: a config that others inherit needs a path that Python could import; rename '
        f'{next(p for p in parts if not p.isidentifier() or keyword.iskeyword(p))!r}')


def to_source(value: Any, imports: dict[str, str], used: int = 0, depth: int = 0) -> str:
    """Write a value as an author of configs would: ``dict(type=ResNet, depth=50)``.

    Args:
        value: plain data and lazily imported names.
        imports: takes what the text needs imported, name to dotted path.
        used: columns taken on its first line.
        depth: how many dicts it stands in.
    """
    if isinstance(value, LazyName):
        return _import(value.dotted_path, imports)
    if isinstance(value, Mapping):
        pairs = [(k, to_source(v, imports, len(str(k)) + 4 * depth + 5, depth + 1))
                 for k, v in value.items()]
        if all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k)
               for k in value):
            return _fill('dict(', [f'{k}={v}' for k, v in pairs], ')', used, depth)
        return _fill('{', [f'{k!r}: {v}' for k, v in pairs], '}', used, depth)
    if type(value) in (list, tuple):
        items = [to_source(v, imports, 4 * depth + 4, depth + 1) for v in value]
        if isinstance(value, list):
            return _fill('[', items, ']', used, depth)
        return _fill('(', items, ',)' if len(items) == 1 else ')', used, depth)
    if value is None or isinstance(value, (bool, int, float, str)):
        return format_value(value)
    if isinstance(value, type) or hasattr(value, '__qualname__'):
        return _import(f'{value.__module__}.{value.__qualname__}', imports)
    raise ConfigError(f'{brief(value)} cannot be written into a config')


def _import(path: str, imports: dict[str, str]) -> str:
    name = path.rpartition('.')[2]
    if imports.setdefault(name, path) != path:
        return repr(path)  # two classes of one name: the other by its dotted path
    return name


def _fill(start: str, items: list[str], end: str, used: int, depth: int) -> str:
    line = f'{start}{", ".join(items)}{end}'
    if '\n' not in line and used + len(line) <= _WIDTH:
        return line
    pad = ' ' * 4 * (depth + 1)
    return f'{start}\n{pad}' + f',\n{pad}'.join(items) + end
