"""How long one image takes through networks of the zoo on this machine, as far as it was measured.

``openlab zoo measure`` and ``openlab zoo select`` measure and remember, lists filter by it. What
other machines measured in a shared cache does not count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from openlab.utils.folders import cache_folder
from openlab.utils.json_lines import append_row, keep_rows, read_rows
from openlab.utils.machine import processor

FILE = 'latencies.jsonl'


class Latency(NamedTuple):
    """A measurement."""

    milliseconds: float  # median of one image
    device: str
    input_shape: tuple[int, ...]  # (C, H, W)


def file() -> Path:
    """Where measurements are kept."""
    return cache_folder() / 'zoo' / FILE


def remember(name: str, milliseconds: float, device: str, input_shape: Sequence[int]) -> None:
    """Keep a measurement of an entry; a later one takes its place."""
    file().parent.mkdir(parents=True, exist_ok=True)
    if file().is_file():  # also cleans up behind a process that was killed while it wrote
        keep_rows(file(), lambda row: (row['name'], row['device'], row['machine']) != (
            name, device, _machine()))
    with file().open('a', encoding='utf-8') as stream:
        append_row(stream, {'name': name, 'ms': round(milliseconds, 3), 'device': device,
                            'shape': list(input_shape), 'machine': _machine()})


def measured(device: str | None = None) -> dict[str, Latency]:
    """What is known of this machine, by name of the entry.

    Args:
        device: ``'cpu'``, ``'cuda'`` ...; by default the one that was measured last.
    """
    if not file().is_file():
        return {}
    own = [row for row in read_rows(file()) if row['machine'] == _machine()]
    if device is None and own:
        device = own[-1]['device']
    return {row['name']: Latency(row['ms'], row['device'], tuple(row['shape']))
            for row in own if row['device'] == device}


def _machine() -> str:
    return f'{processor()}, {os.cpu_count()} cores'
