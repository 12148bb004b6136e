"""Number formats of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

from openlab.device import computes_bf16

Precision = Literal['fp32', 'bf16', 'fp16', 'auto']
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def autocast(device_type: str, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """Make contexts in which operations run in ``precision`` where that is safe.

    Args:
        device_type: ``'cpu'``, ``'cuda'``, ``'mps'`` ...
        precision: ``'fp32'`` leaves everything as it is; ``'auto'`` see ``resolve_precision``.

    Raises:
        ValueError: if the precision is unknown.
    """
    precision = resolve_precision(device_type, precision)
    if precision == 'fp32':
        return nullcontext
    return lambda: torch.autocast(device_type, dtype=DTYPES[precision])


def resolve_precision(device_type: str, precision: str) -> str:
    """The precision itself; for ``'auto'`` bf16 on chips that compute in it, else fp32.

    Raises:
        ValueError: if the precision is unknown.
    """
    if precision == 'auto':
        return 'bf16' if computes_bf16(torch.device(device_type)) else 'fp32'
    if precision not in DTYPES:
        raise ValueError(f'optim_wrapper.precision={precision!r}; accepted: '
                         f'{", ".join(map(repr, get_args(Precision)))}')
    return precision
