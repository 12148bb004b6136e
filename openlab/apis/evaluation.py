"""Evaluating weights, or predictions that were dumped earlier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openlab.engine.evaluator import Evaluator
from openlab.engine.predictions import check_suffix, read
from openlab.engine.runner import Runner

_NOT_IN_TESTS = ('checkpoint', 'run_folder', 'timer', 'param_scheduler')


def evaluate(cfg: Any, weights: str | None = None, *, tta: bool = False,
             dump: str | Path | None = None) -> dict[str, float]:
    """Run the test of a config.

    Args:
        cfg: by ``load_config``; without ``test_dataloader`` its validation is run instead.
        weights: a checkpoint; by default ``load_from`` of the config.
        tta: predict several views of each image; the config's ``tta`` says which, by default
            the mirror image is added.
        dump: file for predictions and truth.

    Returns:
        Results as ``metric/name``.

    Raises:
        ValueError: if there is nothing to test with.
    """
    if dump is not None:
        check_suffix(dump)
    if weights is not None:
        cfg['load_from'] = weights
    if not cfg.get('load_from'):
        raise ValueError('no weights to test: give a checkpoint, or load_from in the config')
    use_test_stage(cfg)
    if not tta:
        cfg['tta'] = None
    elif not cfg.get('tta'):
        cfg['tta'] = {'flip': True}
    if dump is not None:
        cfg['test_cfg'] = {**(cfg.get('test_cfg') or {}), 'dump': str(dump)}
    hooks = dict(cfg.get('default_hooks') or {})
    cfg['default_hooks'] = {**hooks, **dict.fromkeys(_NOT_IN_TESTS)}
    cfg['loggers'] = []
    return Runner.from_config(cfg).test()


def use_test_stage(cfg: Any) -> None:
    """Let the validation stand in where a config has no test.

    Raises:
        ValueError: if it has neither.
    """
    if not cfg.get('test_dataloader'):
        cfg['test_dataloader'] = cfg.get('val_dataloader')
    if not cfg.get('test_evaluator'):
        cfg['test_evaluator'] = cfg.get('val_evaluator')
    if not cfg.get('test_dataloader'):
        raise ValueError('the config has neither test_dataloader nor val_dataloader')
    if not cfg.get('test_evaluator'):
        raise ValueError('the config has neither test_evaluator nor val_evaluator')


def evaluate_dump(cfg: Any, file: str | Path) -> dict[str, float]:
    """Compute the config's metrics on predictions from ``dump``; needs no model and no images.

    Args:
        cfg: only its evaluator counts.
        file: written by ``evaluate`` with ``dump``.
    """
    pairs, meta = read(file)
    metrics = cfg.get('test_evaluator') or cfg.get('val_evaluator')
    if not metrics:
        raise ValueError('the config has neither test_evaluator nor val_evaluator')
    evaluator = Evaluator.from_config(metrics, 'test_evaluator')
    evaluator.dataset_meta = meta
    evaluator.update([p for p, _ in pairs], [s for _, s in pairs])
    return evaluator.evaluate()


def write_record(file: str | Path, metrics: Mapping[str, Any], **about: Any) -> None:
    """Write results as JSON, with what they were measured on."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {'metrics': dict(metrics), **about}
    file.write_text(json.dumps(record, indent=2, default=str) + '\n', encoding='utf-8')
