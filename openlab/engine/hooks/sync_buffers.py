"""Let all processes evaluate, and save, the same buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openlab.engine.distributed import is_distributed, world_size
from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Average floating-point buffers over processes at the end of each training epoch.

    Without SyncBN each process collects batch-norm statistics of its own share of the data.
    Alone it does nothing.
    """

    # After EMAHook has put its average in, and its buffers with it.
    priority = 'NORMAL'

    def before_val_epoch(self, runner: Runner) -> None:
        """Average what is about to be evaluated."""
        average_buffers(runner.unwrapped_model)

    def before_test_epoch(self, runner: Runner) -> None:
        """Average what is about to be evaluated."""
        average_buffers(runner.unwrapped_model)

    def after_train_epoch(self, runner: Runner) -> None:
        """Average what is about to be saved."""
        average_buffers(runner.unwrapped_model)


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Average all floating-point buffers over processes, in place, one message for each dtype."""
    if not is_distributed():
        return
    groups: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        if buffer.is_floating_point():
            groups.setdefault(buffer.dtype, []).append(buffer)
    for buffers in groups.values():
        flat = torch.cat([b.reshape(-1) for b in buffers])
        dist.all_reduce(flat)
        flat /= world_size()
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers])):
            buffer.copy_(part.view_as(buffer))
