"""Ctrl-C and SIGTERM as requests: finish the step, save, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Whether, and by which signal, the run was asked to stop.

    Attributes:
        signal: the signal's number; ``None`` while nobody asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def name(self) -> str:
        """Name of the signal, for messages."""
        return '' if self.signal is None else signal.Signals(self.signal).name

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM inside; other threads than the main one cannot, and do not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {
            s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
