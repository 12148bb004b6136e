"""Whether the network may be used."""

from __future__ import annotations

import os

OFFLINE_VARIABLE = 'OPENLAB_OFFLINE'


def is_offline() -> bool:
    """Whether ``OPENLAB_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, '').lower() not in ('', '0', 'false', 'no')
