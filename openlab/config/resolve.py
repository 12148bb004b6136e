"""Write into a config what is derived when it is built, so that it tells the whole truth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from openlab.config.build import build, watch_derived
from openlab.config.nodes import ConfigDict, Writer, writing
from openlab.config.override import parse_path
from openlab.registry import MODELS, import_custom

AnyConfig = TypeVar('AnyConfig', bound=ConfigDict)
DERIVED = 'derived'
_DRAWS = ('normal_', 'uniform_', 'random_', 'bernoulli_', 'exponential_', 'log_normal_')


def resolve_config(cfg: AnyConfig) -> AnyConfig:
    """Write derived values (``in_channels`` of a neck or head) into ``cfg``, and return it.

    The model is built on the meta device to learn them: no memory, no weights, no data.

    Raises:
        BuildError: if the model cannot be built.
    """
    build_on_meta(cfg)
    return cfg


def build_on_meta(cfg: ConfigDict) -> Any:
    """Build a config's model on the meta device, and write what it derived into the config."""
    import torch

    found: list[tuple[str, Any]] = []
    import_custom(cfg.get('custom_imports'))
    tell = watch_derived(lambda path, value: found.append((path, value)))
    with torch.device('meta'), without_draws(), tell:
        model = build(cfg['model'], MODELS, 'model')
    write_derived(cfg, found)
    return model


def write_derived(cfg: ConfigDict, found: Iterable[tuple[str, Any]]) -> None:
    """Write derived values into a config: pairs of key path and value."""
    for path, value in found:
        *steps, key = parse_path(path)
        node: Any = cfg
        for step in steps:
            node = node[step]
        with writing(Writer(DERIVED)):
            node[key] = list(value) if isinstance(value, list) else value


def without_draws() -> Any:
    """Leave out random initialisation: without memory it does nothing, but takes seconds.

    On the meta device torch runs it through its Python references, which import the compiler.
    """
    from torch.overrides import TorchFunctionMode

    class WithoutDraws(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            kwargs = kwargs or {}
            if getattr(func, '__name__', '') in _DRAWS:
                tensor = args[0] if args else kwargs['tensor']
                if tensor.is_meta:
                    return tensor
            return func(*args, **kwargs)

    return WithoutDraws()
