"""Annotations as a few flat arrays, so that workers share them instead of copying them.

A list of a million dicts grows in every worker, because counting references writes to its
pages. Here each column is one buffer (and offsets where values differ in length) held in a torch
tensor: forked workers share its pages, spawned ones receive it through shared memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal['number', 'text', 'array', 'json']


@dataclass
class Column:
    """One field of all records: values end to end, cut at ``offsets``."""

    kind: Kind
    values: Tensor
    offsets: Tensor | None = None

    def __getitem__(self, index: int) -> Any:
        if self.offsets is None:
            return self.values[index].item()
        piece = self.values[int(self.offsets[index]):int(self.offsets[index + 1])]
        if self.kind == 'array':
            return piece.numpy().copy()
        text = piece.numpy().tobytes().decode('utf-8')
        return json.loads(text) if self.kind == 'json' else text


class RecordTable:
    """An immutable list of dicts in flat arrays.

    Numbers, strings and arrays have their own columns; anything else is kept as JSON text.
    A value that is ``None`` in some records makes its column JSON.

    Args:
        columns: values of each field, one for each record.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any] | np.ndarray]):
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f'columns of one table must be equally long, got {lengths}')
        self._length = next(iter(lengths.values()), 0)
        self.columns = {name: make_column(values) for name, values in columns.items()}

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> RecordTable:
        """Make a table from dicts; a field that a record lacks reads back as ``None``."""
        rows = list(records)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return cls({name: [row.get(name) for row in rows] for name in names})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self._length <= index < self._length:
            raise IndexError(f'index {index} is outside a table of {self._length} records')
        index %= self._length
        return {name: column[index] for name, column in self.columns.items()}

    def column(self, name: str) -> np.ndarray | list[Any]:
        """All values of one field: an array for numbers, a list otherwise."""
        column = self.columns[name]
        if column.kind == 'number':
            return column.values.numpy()
        return [column[i] for i in range(len(self))]

    @property
    def num_bytes(self) -> int:
        """Size of all buffers."""
        parts = [t for c in self.columns.values() for t in (c.values, c.offsets) if t is not None]
        return sum(t.numel() * t.element_size() for t in parts)


def make_column(values: Sequence[Any] | np.ndarray) -> Column:
    """Pack the values of one field."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in 'iufb':
        return Column('number', torch.from_numpy(np.array(values)))
    if all(isinstance(v, (bool, int, np.integer)) for v in values):
        return Column('number', torch.tensor([int(v) for v in values], dtype=torch.int64))
    if all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values):
        return Column('number', torch.tensor([float(v) for v in values], dtype=torch.float64))
    if all(isinstance(v, str) for v in values):
        return _pack_bytes('text', [v.encode('utf-8') for v in values])
    if all(isinstance(v, np.ndarray) and v.ndim for v in values):
        shapes = {(v.dtype.str, v.shape[1:]) for v in values}
        if len(shapes) == 1:
            flat = torch.from_numpy(np.concatenate(list(values)))
            return Column('array', flat, _offsets(len(v) for v in values))
    return _pack_bytes('json', [json.dumps(v, default=_plain).encode('utf-8') for v in values])


def _pack_bytes(kind: Kind, pieces: list[bytes]) -> Column:
    buffer = np.frombuffer(b''.join(pieces), dtype=np.uint8).copy()
    return Column(kind, torch.from_numpy(buffer), _offsets(len(p) for p in pieces))


def _offsets(lengths: Iterable[int]) -> Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int64))


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f'a record may hold numbers, strings, arrays and plain lists or dicts, '
                    f'not {type(value).__name__}')
