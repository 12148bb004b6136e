"""Training from a config: what the command line's options change in it, and what is told after."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openlab.engine.runner import Runner

NUM_DEV_BATCHES = 3


@dataclass
class TrainOptions:
    """What ``openlab train`` can change without touching the config.

    Attributes:
        work_dir: folder of the run; by default the config's, else ``work_dirs/<config name>``.
        resume: continue the newest checkpoint of the work_dir (True), or the one at a path.
        load_from: weights to start from.
        replace_head: accept that they were made for another number of classes.
        seed: of all random numbers.
        precision: ``'fp32'``, ``'bf16'`` or ``'fp16'``.
        fast_dev_run: only so many batches of each stage, to see that all of it works.
        overfit_batch: train on the first batch only; its loss must go to zero.
        auto_scale_lr: scale lr with the batch size.
        max_time: stop and save in time, such as ``'2h30m'``.
        compile: ``'model'`` or ``'blocks'``.
        batch_size: of training, for each process.
    """

    work_dir: str | None = None
    resume: bool | str = False
    load_from: str | None = None
    replace_head: bool = False
    seed: int | None = None
    precision: str | None = None
    fast_dev_run: int = 0
    overfit_batch: bool = False
    auto_scale_lr: bool = False
    max_time: str | None = None
    compile: str | None = None
    batch_size: int | None = None


def prepare(cfg: Any, options: TrainOptions) -> Any:
    """Write the options into the config, so that what is saved with the run is what ran.

    Raises:
        ValueError: if an option contradicts the config.
    """
    if options.work_dir is not None:
        cfg['work_dir'] = options.work_dir
    elif not cfg.get('work_dir'):
        cfg['work_dir'] = f'work_dirs/{Path(getattr(cfg, "filename", None) or "run").stem}'
    if options.resume:
        cfg['resume'] = options.resume
    if options.load_from is not None:
        cfg['load_from'] = {'source': options.load_from, 'replace_head': options.replace_head}
    if options.seed is not None:
        _change(cfg, 'randomness', seed=options.seed)
    if options.precision is not None:
        _change(cfg, 'optim_wrapper', precision=options.precision)
    if options.batch_size is not None:
        _change(cfg, 'train_dataloader', batch_size=options.batch_size)
    if options.compile is not None:
        _change(cfg, 'compile', target=options.compile)
    if options.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ValueError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the '
                             'config: the batch size that its lr was tuned for')
        _change(cfg, 'auto_scale_lr', enable=True)
    if options.max_time is not None:
        hook = {'type': 'TimeLimitHook', 'max_time': options.max_time}
        cfg['custom_hooks'] = [*(cfg.get('custom_hooks') or []), hook]
    if options.overfit_batch:
        _change(cfg, 'train_cfg', overfit_batch=True)
        cfg['val_dataloader'] = None  # it would measure nothing
        _change_hook(cfg, 'checkpoint', save_best=None)
    if options.fast_dev_run:
        shorten(cfg, options.fast_dev_run)
    return cfg


def shorten(cfg: Any, num_batches: int = NUM_DEV_BATCHES) -> None:
    """Cut every stage to a few batches, and the run into a folder of its own."""
    loop = cfg.get('train_cfg') or {}
    if 'max_iters' in loop:
        _change(cfg, 'train_cfg', max_iters=num_batches, val_interval=num_batches, val_begin=1)
    else:
        _change(cfg, 'train_cfg', max_epochs=1, max_batches=num_batches, val_interval=1,
                val_begin=1)
    for stage in ('val', 'test'):
        if cfg.get(f'{stage}_dataloader'):
            _change(cfg, f'{stage}_cfg', max_batches=num_batches)
    cfg['work_dir'] = str(Path(cfg.get('work_dir') or 'work_dirs/run') / 'fast_dev_run')
    _change_hook(cfg, 'logger', interval=1)
    cfg['resume'] = False


def _change(cfg: Any, key: str, **values: Any) -> None:
    current = cfg.get(key)
    cfg[key] = {**(current if isinstance(current, Mapping) else {}), **values}


def _change_hook(cfg: Any, name: str, **values: Any) -> None:
    hooks = dict(cfg.get('default_hooks') or {})
    if hooks.get(name, {}) is not None:  # None: the config wants none
        hooks[name] = {**hooks.get(name, {}), **values}
        cfg['default_hooks'] = hooks


def train(cfg: Any, options: TrainOptions | None = None) -> Runner:
    """Train what a config describes.

    Args:
        cfg: by ``load_config``, or a plain dict.
        options: what to change in it first.

    Returns:
        The runner, trained.
    """
    runner = Runner.from_config(prepare(cfg, options or TrainOptions()))
    runner.train()
    if options and options.fast_dev_run and cfg.get('test_dataloader'):
        runner.test()
    return runner


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table with a rule below its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [' | '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in rows]
    return [lines[0], '-+-'.join('-' * width for width in widths), *lines[1:]]


def exit_code(runner: Runner) -> int:
    """0, or by convention 128 + the signal that stopped the run."""
    asked = runner.stop_request.signal
    return 0 if asked is None else 128 + int(signal.Signals(asked))
