"""What openlab takes from mmengine's engine, imported in this one place.

mmengine imports optional libraries when they are installed, to register their optimizers.
transformers alone would double the time until a run starts; none of them is needed here, and
torch has those optimizers by now.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

OPTIONAL = ('transformers', 'bitsandbytes')


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make modules look as if they were not installed, unless they are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with without(*OPTIONAL):
    from mmengine.hooks import Hook as MMEngineHook
    from mmengine.optim.optimizer.base import BaseOptimWrapper
    from mmengine.runner import Runner as MMEngineRunner
    from mmengine.runner.base_loop import BaseLoop
    from mmengine.runner.priority import Priority, get_priority

__all__ = ['BaseLoop', 'BaseOptimWrapper', 'MMEngineHook', 'MMEngineRunner', 'Priority',
           'get_priority']
