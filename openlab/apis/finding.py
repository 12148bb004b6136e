"""Batch size and learning rate found by short trials, before a training begins."""

from __future__ import annotations

from typing import Any

from openlab.apis.training import TrainOptions, prepare
from openlab.engine.finders import BatchSizeResult, LrFinderResult, find_batch_size, find_lr
from openlab.engine.runner import Runner


def choose_batch_size(cfg: Any, options: TrainOptions) -> BatchSizeResult:
    """Find the fastest batch size that fits and set it in the options."""
    result = find_batch_size(Runner.from_config(prepare(cfg, options)))
    options.batch_size = result.batch_size
    return result


def sweep_lr(cfg: Any, options: TrainOptions) -> LrFinderResult:
    """Sweep the learning rate with the batch size of the options; trains nothing."""
    return find_lr(Runner.from_config(prepare(cfg, options)))
