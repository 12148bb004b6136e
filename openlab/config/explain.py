"""Who wrote a key of a config, in order, and who won."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from openlab.config.load import DELETED, Config, trail
from openlab.config.nodes import ConfigDict, Writer, brief


def explain(cfg: Config, key: str) -> str:
    """Return the writers of ``key`` as text, the winner marked with ``*``.

    Where the winner refers to variables of the config (``num_classes=num_classes``), their
    writers follow.

    Raises:
        ConfigError: if there is no such key.
    """
    return '\n'.join(_sections(cfg, key, set()))


def _sections(cfg: Config, key: str, seen: set[str]) -> Iterator[str]:
    seen.add(key)
    steps = trail(cfg, key)
    path, value, writers = steps[-1]
    yield f'{path} was deleted' if value is DELETED else f'{path} = {brief(value)}'
    if not writers:  # a list item: what wrote the list wrote the item
        path, _, writers = next((s for s in reversed(steps) if s[2]), steps[0])
        yield f'  (through {path})'
    places = [short_place(w) for w in writers]
    width = max(map(len, places), default=0)
    for place, writer in zip(places, writers):
        mark = '*' if writer is writers[-1] else ' '
        text = writer.text if writer.text != writer.file else ''
        yield f'  {mark} {place:<{width}}  {text}'.rstrip()
    if not writers:
        yield '    set in code'
    for name in writers[-1].reads if writers else ():
        if name in cfg.variables and name not in seen and name != steps[0][0]:
            yield f'which refers to {name}:'
            yield from ('  ' + line for line in _sections(cfg, name, seen))


def short_place(writer: Writer) -> str:
    """Return ``file:line`` with the path relative to the current folder where it lies in it."""
    if not writer.line:
        return writer.where
    path = Path(writer.file)
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return f'{path}:{writer.line}'


def place_of(cfg: ConfigDict, key: str) -> str:
    """Return where the value of a key path (or of its nearest written ancestor) was written."""
    if not isinstance(cfg, Config):
        return ''
    from openlab.config.errors import ConfigError

    try:
        steps = trail(cfg, key)
    except ConfigError:
        return ''
    for _, _, writers in reversed(steps):
        if writers:
            return short_place(writers[-1])
    return ''
