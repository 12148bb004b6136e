"""Folders of the machine that openlab writes to."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = 'OPENLAB_CACHE'


def cache_folder() -> Path:
    """Where downloads and prepared data are kept; nothing is created."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'openlab'
