"""Where relative data folders are looked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_config_folder: ContextVar[Path | None] = ContextVar('config_folder', default=None)


@contextmanager
def relative_to(config_file: str | Path | None) -> Iterator[None]:
    """Within the block, relative data folders are also looked for beside this config."""
    folder = None if config_file is None else Path(config_file).expanduser().resolve().parent
    token = _config_folder.set(folder)
    try:
        yield
    finally:
        _config_folder.reset(token)


def resolve_root(data_root: str | Path) -> Path:
    """The folder that ``data_root`` means: in the current folder, else beside the config."""
    root = Path(data_root).expanduser()
    beside = _config_folder.get()
    if root.is_absolute() or root.exists() or beside is None:
        return root
    return beside / root if (beside / root).exists() else root
