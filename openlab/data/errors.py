"""What goes wrong with a user's data, said with the file and the annotation that named it."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """A file or an annotation cannot be used; the message says which one and why."""


@dataclass(frozen=True)
class Dropped:
    """One annotation that a dataset left out on reading, and the reason."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f'{self.source}: {self.reason}'


@dataclass(frozen=True)
class FailedItem:
    """What a worker sends in place of an item that it could not produce."""

    index: int
    message: str
    is_data_error: bool
    traceback: str
