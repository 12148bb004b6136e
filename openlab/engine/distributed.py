"""Small helpers around ``torch.distributed`` that also work in a single process."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from openlab import device as chips

T = TypeVar('T')
_said: set[tuple[str, str]] = set()


def is_distributed() -> bool:
    """Whether a process group is running."""
    return dist.is_available() and dist.is_initialized()


def is_launched() -> bool:
    """Whether this process was started by a launcher (torchrun's variables are set)."""
    return 'RANK' in os.environ and 'WORLD_SIZE' in os.environ


def rank() -> int:
    """Number of this process among all, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get('LOCAL_RANK', 0))


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


def start_process_group(timeout_s: float = 1800.0, device: torch.device | None = None) -> None:
    """Join the processes that a launcher started; does nothing when alone or already joined.

    Args:
        timeout_s: how long a collective may wait for another rank.
        device: what this process computes on; decides the backend.
    """
    if is_distributed() or not is_launched():
        return
    device = device or chips.get_device()
    chips.set_current(device)
    backend = chips.backend_for(device)
    # Objects and CPU tensors (metrics, names, generator states) travel by gloo beside the chip's.
    mixed = backend if backend == 'gloo' else f'cpu:gloo,{device.type}:{backend}'
    dist.init_process_group(mixed, timeout=timedelta(seconds=timeout_s))


def start_alone(device: torch.device | None = None) -> None:
    """Start a process group of one, for what only works inside a group."""
    if not is_distributed():
        device = device or chips.get_device()
        store = dist.HashStore()
        dist.init_process_group(chips.backend_for(device), store=store, rank=0, world_size=1)


def stop_process_group() -> None:
    """Leave the process group, if there is one, together with the other ranks."""
    if is_distributed():
        dist.barrier()  # a rank that leaves while others still talk to it aborts them
        dist.destroy_process_group()


def end_rank(code: int) -> None:
    """End this process if it is one of several: together with the others, and at once.

    A thread of the communication library may still be there when the interpreter takes itself
    down, which aborts a process whose work is all done (seen with FSDP2 over gloo). So what is
    to run at exit runs here, and the rest of the shutdown is left out.
    """
    if not is_distributed():
        return
    stop_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def barrier() -> None:
    """Wait for all ranks."""
    if is_distributed():
        dist.barrier()


def main_process_only(function: Callable[..., T]) -> Callable[..., T | None]:
    """Run ``function`` on rank 0; elsewhere it returns ``None`` at once."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> T | None:
        return function(*args, **kwargs) if is_main_process() else None

    return wrapped


def all_reduce(value: Tensor, op: str = 'sum') -> Tensor:
    """Sum, mean, max or min of ``value`` over all ranks, in a new tensor.

    Args:
        value: same shape and dtype on every rank.
        op: ``'sum'``, ``'mean'``, ``'max'`` or ``'min'``.
    """
    if op not in ('sum', 'mean', 'max', 'min'):
        raise ValueError(f"op={op!r}; accepted: 'sum', 'mean', 'max', 'min'")
    result = value.detach().clone()
    if not is_distributed():
        return result
    kind = {'sum': dist.ReduceOp.SUM, 'mean': dist.ReduceOp.SUM,
            'max': dist.ReduceOp.MAX, 'min': dist.ReduceOp.MIN}[op]
    dist.all_reduce(result, op=kind)
    return result / world_size() if op == 'mean' else result


def all_reduce_dict(values: Mapping[str, float | Tensor], op: str = 'mean') -> dict[str, float]:
    """Reduce scalars by name in one collective; all ranks must hold the same names.

    Raises:
        ValueError: if the names differ between ranks.
    """
    names = sorted(values)
    if is_distributed():
        others = all_gather_object(names)
        for number, other in enumerate(others):
            if other != names:
                raise ValueError(
                    f'rank {rank()} reduces {names} but rank {number} reduces {other}; '
                    'every rank must report the same names')
    if not names:
        return {}
    numbers = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
    return dict(zip(names, all_reduce(numbers, op).tolist()))


def all_gather_object(value: T) -> list[T]:
    """The ``value`` of every rank, in rank order, on every rank."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: T, source: int = 0) -> T:
    """The ``value`` of rank ``source`` on every rank."""
    if not is_distributed():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def log_once(message: str, level: int = logging.INFO, logger: str = 'openlab') -> None:
    """Log a message the first time it is given, on rank 0 only."""
    if is_main_process() and (logger, message) not in _said:
        _said.add((logger, message))
        logging.getLogger(logger).log(level, message)
