"""What must be set in the process before a run: imports, threads, the logger."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def setup_environment(
    custom_imports: Mapping[str, Any] | Sequence[str] | None = None,
    num_threads: int | None = None,
    opencv_threads: int = 0,
    autotune: bool = False,
    matmul_precision: str | None = None,
) -> None:
    """Import what a config needs and set the threads.

    Args:
        custom_imports: module names, or mmengine's ``dict(imports=[...])``.
        num_threads: of torch in this process; by default what torch (or ``OMP_NUM_THREADS``)
            decides, shared among the processes of a launch.
        opencv_threads: of OpenCV in this process; 0 for none besides the caller.
        autotune: let convolutions try algorithms at the first use of each shape.
        matmul_precision: ``'highest'``, ``'high'`` (TF32) or ``'medium'``; torch's by default.
    """
    given = custom_imports or []
    for name in given.get('imports', []) if isinstance(given, Mapping) else given:
        importlib.import_module(name)
    local = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if num_threads is None and local > 1 and 'OMP_NUM_THREADS' not in os.environ:
        num_threads = max(1, torch.get_num_threads() // local)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if 'cv2' in sys.modules:
        sys.modules['cv2'].setNumThreads(opencv_threads)
    else:
        os.environ.setdefault('OPENCV_FOR_THREADS_NUM', str(opencv_threads))
    if autotune:
        from openlab import device as chips

        chips.set_autotune(True)
    if matmul_precision is not None:
        torch.set_float32_matmul_precision(matmul_precision)


def setup_logger(level: str | int = 'INFO', rank: int = 0) -> logging.Logger:
    """The logger ``openlab``: lines with the time on stderr; other ranks only warn.

    Raises:
        ValueError: if there is no such level.
    """
    logger = logging.getLogger('openlab')
    if isinstance(level, str):
        names = logging.getLevelNamesMapping() if hasattr(logging, 'getLevelNamesMapping') else {
            n: getattr(logging, n) for n in ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')}
        if level.upper() not in names:
            raise ValueError(f'log_level={level!r}; accepted: {", ".join(names)}')
        level = names[level.upper()]
    if not any(getattr(h, 'is_openlabs', False) for h in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
        logger.addHandler(handler)
    logger.setLevel(level if rank == 0 else max(level, logging.WARNING))
    return logger


class _Stderr(logging.StreamHandler):
    """Writes to what ``sys.stderr`` is at that moment: progress lines replace it for a while."""

    is_openlabs = True

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass
