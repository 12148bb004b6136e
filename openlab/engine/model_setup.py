"""What happens to a model between its construction and the first step."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_COMPILE_KEYS = ('fullgraph', 'dynamic', 'backend', 'mode', 'options', 'disable')
_BLOCK_LISTS = ('blocks', 'layers', 'stages', 'layer1', 'layer2', 'layer3', 'layer4')


def compile_model(model: nn.Module, cfg: bool | Mapping[str, Any] | None) -> list[str]:
    """Compile parts of a model in place; names of parameters do not change.

    ``target='model'`` compiles each child of the algorithm (backbone, neck, head) as a whole;
    losses and predictions, which work on lists of samples, stay outside. ``target='blocks'``
    compiles each repeated block on its own: equal blocks share their code, so it starts sooner.

    Args:
        model: the algorithm.
        cfg: ``True``, or ``dict(target=..., blocks=[...], **arguments of torch.compile)``, where
            ``blocks`` names classes or patterns of module names instead of the usual lists.

    Returns:
        Names of the modules that are compiled.

    Raises:
        ValueError: on an unknown key or target, or a pattern that fits nothing.
    """
    if not cfg:
        return []
    options: dict[str, Any] = {} if cfg is True else dict(cfg)
    target = options.pop('target', 'model')
    patterns = options.pop('blocks', None)
    for key in options:
        if key not in _COMPILE_KEYS:
            accepted = ('target', 'blocks', *_COMPILE_KEYS)
            near = difflib.get_close_matches(key, accepted, n=2)
            hint = f'; did you mean {" or ".join(near)}?' if near else ''
            raise ValueError(f'compile.{key} is unknown{hint} Accepted: {", ".join(accepted)}')
    if target == 'model' and patterns is None:
        chosen = {n: m for n, m in model.named_children() if n != 'preprocessor' and _has_work(m)}
        chosen = chosen or {'': model}
    elif target in ('model', 'blocks'):
        chosen = (find_blocks(model) if patterns is None
                  else select_modules(model, patterns, 'compile.blocks'))
    else:
        raise ValueError(f"compile.target={target!r}; accepted: 'model', 'blocks'")
    for module in chosen.values():
        module.compile(**options)
    return list(chosen)


def num_compiled_graphs() -> int:
    """How many graphs torch has compiled in this process; it grows with every recompilation."""
    import sys

    dynamo = sys.modules.get('torch._dynamo.utils')
    return 0 if dynamo is None else int(dynamo.counters['stats'].get('unique_graphs', 0))


def checkpoint_activations(model: nn.Module, patterns: Sequence[str] | None) -> nn.Module:
    """Let the chosen modules keep only their inputs and compute the rest again in backward.

    Args:
        model: changed in place; names of parameters stay.
        patterns: class names (``'Bottleneck'``) or patterns of module names
            (``'backbone.blocks.*'``); ``['blocks']`` alone takes the usual lists of blocks.

    Raises:
        ValueError: if a pattern fits nothing.
    """
    if not patterns:
        return model
    chosen = (find_blocks(model) if list(patterns) == ['blocks']
              else select_modules(model, patterns, 'activation_checkpointing'))
    for module in chosen.values():
        _checkpointed(module)
    return model


def _checkpointed(module: nn.Module) -> None:
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, use_reentrant=False, **kwargs)

    module.forward = forward  # type: ignore[method-assign]


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The members of the outermost sequences named ``blocks``, ``layers``, ``layer1`` ...

    Raises:
        ValueError: if there are none.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential))
        inside = any(name.startswith(f'{other}.') for other in found)
        if is_list and not inside and name.rpartition('.')[2] in _BLOCK_LISTS:
            found |= {f'{name}.{n}': m for n, m in module.named_children()}
    if not found:
        raise ValueError(f'{type(model).__name__} has no sequence of modules named '
                         f'{", ".join(_BLOCK_LISTS)}; name its blocks by class or pattern')
    return found


def select_modules(model: nn.Module, patterns: Sequence[str], path: str) -> dict[str, nn.Module]:
    """Modules whose class name, or whose own name as a glob, is among the patterns.

    Raises:
        ValueError: if a pattern fits nothing; the message lists near names.
    """
    modules = {n: m for n, m in model.named_modules() if n}
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        fitting = {n: m for n, m in modules.items()
                   if type(m).__name__ == pattern or fnmatch.fnmatchcase(n, pattern)}
        if not fitting:
            names = sorted({type(m).__name__ for m in modules.values()} | set(modules))
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            hint = f'; near: {", ".join(near)}' if near else ''
            raise ValueError(f'{path}: {pattern!r} fits no module{hint}')
        chosen |= fitting
    return {n: m for n, m in modules.items() if n in chosen}


def wrap(model: nn.Module, strategy: Any, device: torch.device,
         distributed: bool) -> tuple[nn.Module, Any]:
    """Wrap the model for several processes; returns it and the strategy (``None`` if alone)."""
    if strategy is None and not distributed:
        return model, None
    from openlab.engine.strategy import build_strategy

    built = build_strategy(strategy or {'type': 'ddp'})
    return built.wrap(model, device), built


def scaled_optimizer(cfg: Any, auto_scale: Mapping[str, Any] | None,
                     batch: tuple[int, int, int], logger: logging.Logger) -> Any:
    """Optimizer config with its lr scaled to the effective batch size; prints both.

    Args:
        cfg: of the optimizer.
        auto_scale: ``dict(base_batch_size=..., enable=...)``.
        batch: batch size of a process, processes, accumulated micro-batches.
        logger: told the effective batch and lr.

    Raises:
        ValueError: on an unknown or missing key.
    """
    size = batch[0] * batch[1] * batch[2]
    words = f'effective batch {size} = {batch[0]} x {batch[1]} processes x {batch[2]} accumulated'
    if not isinstance(cfg, Mapping) or 'lr' not in cfg:
        logger.info('%s', words)
        return cfg
    unknown = set(auto_scale or ()) - {'base_batch_size', 'enable'}
    if unknown:
        raise ValueError(f'auto_scale_lr has {sorted(unknown)}; accepted: base_batch_size, enable')
    if not auto_scale or not auto_scale.get('enable', True):
        hint = ''
        if auto_scale and auto_scale.get('base_batch_size', size) != size:
            hint = f' (meant for batch {auto_scale["base_batch_size"]}; --auto-scale-lr scales it)'
        logger.info('%s, lr %g%s', words, cfg['lr'], hint)
        return cfg
    if 'base_batch_size' not in auto_scale:
        raise ValueError('auto_scale_lr needs base_batch_size, the batch that lr was tuned for')
    factor = size / auto_scale['base_batch_size']
    logger.info('%s, lr %g = %g x %g', words, cfg['lr'] * factor, cfg['lr'], factor)
    return {**cfg, 'lr': cfg['lr'] * factor}


def to_device(value: Any, device: torch.device) -> Any:
    """Move tensors and samples inside dicts and lists to a device."""
    if isinstance(value, Tensor) or (hasattr(value, 'tensors') and hasattr(value, 'to')):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {k: to_device(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_device(v, device) for v in value]
    return value


def _has_work(module: nn.Module) -> bool:
    """Whether calling the module runs a network: losses are called too, but on samples."""
    return any(True for _ in module.parameters()) and 'forward' in {
        n for n, _ in inspect.getmembers(type(module), inspect.isfunction)}
