"""Put another part into a model: ``model.backbone=ConvNeXt-T`` instead of a dict.

An override whose value is a name, at a place where a component stands, means the component of
that name (``parts.py`` finds it). A backbone is fitted to where it goes: its maps get the strides
of those that came from the old one, by its own stages where it has them, else by a simple
pyramid. What belonged to the old backbone elsewhere in the config, its weights and the freezing
of its stages, leaves with it, and a warning says so.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from openlab.config.build import (
    BuildError,
    build,
    parameter_hints,
    resolve_type,
    signature_of,
    wants_raw,
)
from openlab.config.errors import ConfigError
from openlab.config.nodes import ConfigDict, LazyName, clone
from openlab.config.override import Override
from openlab.config.parts import Part, find_part, kind_at
from openlab.config.resolve import without_draws
from openlab.config.typecheck import PLAIN, expected_classes, fits, is_component, options
from openlab.registry import MODELS, UnknownComponentError, import_custom

SHELL = LazyName('openlab.backbones.dense.DenseBackbone')
PYRAMID = LazyName('openlab.necks.simple_pyramid.SimplePyramid')
ODD = (203, 267)
"""An image size in pixels that no network was made for."""
# What a part says about those around it and not about itself, so that its successor keeps it.
_INTERFACE = ('num_classes', 'out_channels', 'extra', 'extra_from', 'ignore_index')


@dataclass(frozen=True)
class Swap:
    """What becomes of one edit.

    Attributes:
        edit: the same with a component as its value.
        further: what else has to change, each with the reason.
    """

    edit: Override
    further: tuple[tuple[Override, str], ...] = ()


def swap_part(values: ConfigDict, edit: Override) -> Swap | None:
    """Return what an edit means that names a part, or nothing if it is an ordinary edit.

    Args:
        values: top-level names and their values, the edits before this one made.
        edit: the edit.

    Raises:
        ConfigError: if no part of the right kind has that name.
    """
    if edit.action != 'set' or not isinstance(edit.value, str) or len(edit.path) < 2 or (
            edit.name != 'model'):
        return None
    parent = _at(values, edit.path[:-1])
    key = edit.path[-1]
    if not isinstance(parent, Mapping) or not isinstance(key, str) or 'type' not in parent or (
            key == 'type'):
        return None
    import_custom(values.get('custom_imports'))
    try:
        owner = resolve_type(parent['type'], MODELS)
    except (UnknownComponentError, ImportError):
        return None  # check_config says so, with its place
    old = parent.get(key)
    hint = parameter_hints(owner).get(key, Any)
    if wants_raw(hint) or not (is_component(old) or _takes_component(hint, edit.value)):
        return None
    kind = kind_at(key, old)
    part = find_part(edit.value, kind, edit.text)
    old = old if is_component(old) else None
    new = _with_interface(part.cfg, old)
    if kind == 'neck':
        new = _fit_neck(new, old, parent)
    if kind != 'backbone' or old is None:
        return Swap(replace(edit, value=new))
    # Frozen batch norms hold statistics of weights; a layer norm has none.
    keeps_norm = part.weights and _has_batch_norm(new)
    new = _carried(new, old, ('in_channels', *(('norm',) if keeps_norm else ())))
    if needs_maps(owner, parent):
        new = fit_backbone(new, old, edit.text)
    further = [*_leave_behind(values, part.weights, edit, new)]
    if part.preprocessing:
        further += _prepared_for(values, part, edit)
    return Swap(replace(edit, value=new), tuple(further))


def needs_maps(owner: type, parent: Mapping[str, Any]) -> bool:
    """Whether a backbone in ``parent`` has to give maps of the strides that it had before.

    Args:
        owner: the class of the algorithm.
        parent: its config: a classifier takes vectors too, but its neck or its head may not.
    """
    if getattr(owner, 'needs_maps', True) or parent.get('neck') is not None:
        return True
    head = parent.get('head') or {}
    if 'type' not in head:
        return False
    reads_maps = getattr(resolve_type(head['type'], MODELS), 'reads_maps', None)
    return reads_maps is not None and reads_maps(head)


def fit_backbone(new: ConfigDict, old: Mapping[str, Any], where: str = '') -> ConfigDict:
    """Return a backbone's config such that its maps have the strides of another one's.

    Args:
        new: the backbone, any stages it names are replaced.
        old: the one that stands there now.
        where: the edit, for messages.

    Raises:
        ConfigError: if one of them gives no feature maps.
    """
    before = _try(_giving_maps(old))
    if not before.strides:
        raise ConfigError(f'{where}: the present backbone cannot be tried: {before.error}')
    new = _giving_maps(new, drop=('out_stages',))
    plain = _try(new)
    if not plain.strides:
        raise ConfigError(f'{where}: {_name(new)} gives no feature maps: {plain.error}')
    if plain.is_staged:
        fitted = _by_stages(new, old, before)
        if fitted is not None:
            return _in_shell(fitted, plain)
    if len(before.strides) == 1:
        return _in_shell(new, plain)
    return _with_pyramid(new, plain, before.strides)


@dataclass(frozen=True)
class _Trial:
    """What a backbone gave on the meta device.

    Attributes:
        strides: of its maps; empty if there were none.
        out_stages: its stages.
        error: why it gave no maps of an image of a size that fits no stride.
        window: side of the only images it takes; 0 if it takes others.
    """

    strides: tuple[int, ...] = ()
    out_stages: tuple[int, ...] = ()
    error: str | None = None
    window: int = 0

    @property
    def is_staged(self) -> bool:
        """Whether stage s has stride 2**s, as in networks that shrink their maps."""
        return bool(self.out_stages) and self.strides[-1] == 2**self.out_stages[-1]


def meta_backbone(cfg: Mapping[str, Any]) -> Any:
    """A backbone without memory, once for each config; the error as text if it cannot be built."""
    import torch

    key = repr(cfg)
    if key not in _built:
        try:
            with torch.device('meta'), without_draws():
                _built[key] = build(clone(cfg), MODELS, 'backbone').eval()
        except (BuildError, UnknownComponentError) as error:
            _built[key] = str(error)
    return _built[key]


def _try(cfg: Mapping[str, Any]) -> _Trial:
    """Build a backbone without memory, and run it."""
    key = repr(cfg)
    if key not in _trials:
        _trials[key] = _run(cfg)
    return _trials[key]


# A config is evaluated several times over, and the same backbone is asked for several things.
_built: dict[str, Any] = {}
_trials: dict[str, _Trial] = {}


def _run(cfg: Mapping[str, Any]) -> _Trial:
    import torch

    model = meta_backbone(cfg)
    if isinstance(model, str):
        return _Trial(error=model)
    own, stages = (tuple(getattr(model, name, ())) for name in ('strides', 'out_stages'))
    channels = cfg.get('in_channels') or _default(resolve_type(cfg['type'], MODELS), 'in_channels')
    unit = own[-1] if own and not _is_power_of_two(own[-1]) else 32
    first_error = None
    for size in (ODD, (8 * unit, 12 * unit)):
        try:
            with torch.device('meta'), torch.no_grad():
                maps = model(torch.zeros(1, channels or 3, *size))
        except Exception as error:  # whatever a network that is not ours may raise
            first_error = first_error or str(error)
            continue
        if not isinstance(maps, (tuple, list)) or any(m.dim() != 4 for m in maps):
            return _Trial(error='its outputs are no maps (B, C, H, W)')
        found = tuple(2 ** round(math.log2(size[0] / m.shape[2])) for m in maps)
        return _Trial(own or found, stages, first_error)
    side = getattr(model, 'image_size', None)
    if own and isinstance(side, int):
        return _Trial(own, stages, first_error, window=side)
    return _Trial(error=first_error)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _by_stages(new: ConfigDict, old: Mapping[str, Any], before: _Trial) -> ConfigDict | None:
    """Ask for the stages of the old backbone; nothing if the new one does not have them all."""
    stages = before.out_stages if _is_like_stages(before) else tuple(
        round(math.log2(s)) for s in before.strides)
    if len(set(stages)) < len(stages):
        return None
    candidates = [stages]
    if stages[0] == 1:  # few networks show their map of stride 2
        candidates.append(tuple(s + 1 for s in stages))
    for candidate in candidates:
        cfg = _carried(new, old, ('output_stride',))
        cfg['out_stages'] = candidate
        if _default(resolve_type(new['type'], MODELS), 'out_stages') == candidate:
            del cfg['out_stages']
        if not isinstance(meta_backbone(cfg), str):
            return cfg
    return None


def _is_like_stages(trial: _Trial) -> bool:
    """Whether strides are those of the stages, as far as these are not dilated."""
    return len(trial.out_stages) == len(trial.strides) > 0 and trial.out_stages[-1] <= 6 and all(
        stride <= 2**stage for stride, stage in zip(trial.strides, trial.out_stages))


def _with_pyramid(new: ConfigDict, plain: _Trial, strides: Sequence[int]) -> ConfigDict:
    """Put a pyramid on one map of a backbone: the last of a plain one, else that of stride 16."""
    if plain.is_staged:
        stages = sorted(range(2, plain.out_stages[-1] + 1), key=lambda s: abs(s - 4))
        for stage in stages:
            cfg = clone(new)
            cfg['out_stages'] = (stage,)
            if not isinstance(meta_backbone(cfg), str):
                new, step = cfg, 2**stage
                break
    else:
        step = 2 ** round(math.log2(plain.strides[-1]))
    neck: dict[str, Any] = {'type': PYRAMID, 'in_stride': step, 'strides': tuple(strides)}
    for key in ('in_stride', 'strides'):
        if _default(resolve_type(PYRAMID, MODELS), key) == neck[key]:
            del neck[key]
    return _shell(new, plain, ConfigDict(neck))


def _fit_neck(new: ConfigDict, old: Mapping[str, Any] | None,
              parent: Mapping[str, Any]) -> ConfigDict:
    """Give a neck that makes strides itself those of the old one (or of the backbone)."""
    accepted = signature_of(resolve_type(new['type'], MODELS)).parameters
    if 'in_stride' not in accepted or not is_component(parent.get('backbone')):
        return new
    trial = _try(_giving_maps(parent['backbone']))
    if not trial.strides:
        return new
    strides = trial.strides if old is None else _strides_of_levels(parent['backbone'], old)
    return ConfigDict({**new, 'in_stride': trial.strides[-1], 'strides': strides})


def _strides_of_levels(backbone: Mapping[str, Any], neck: Mapping[str, Any]) -> tuple[int, ...]:
    """Strides of what a neck gives, by the sizes of its maps of a large image."""
    import torch

    side = 1024
    with torch.device('meta'), without_draws(), torch.no_grad():
        body = build(clone(backbone), MODELS, 'backbone').eval()
        fed = {'in_channels': body.out_channels, **neck}
        levels = build(ConfigDict(fed), MODELS, 'neck').eval()(body(torch.zeros(1, 3, side, side)))
    return tuple(round(side / level.shape[2]) for level in levels)


def _in_shell(cfg: ConfigDict, trial: _Trial) -> ConfigDict:
    """The backbone as it is if it takes images of any size, else with what it lacks for that."""
    is_even = all(map(_is_power_of_two, trial.strides))
    return cfg if is_even and trial.error is None else _shell(cfg, trial)


def _shell(cfg: ConfigDict, trial: _Trial, neck: ConfigDict | None = None) -> ConfigDict:
    around = ConfigDict(type=SHELL, backbone=cfg)
    if neck is not None:
        around['neck'] = neck
    if trial.window:
        around['window'] = trial.window
    return around


def _is_shell(cfg: Mapping[str, Any]) -> bool:
    return getattr(cfg['type'], 'dotted_path', None) == SHELL.dotted_path


def _has_batch_norm(cfg: Mapping[str, Any]) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    network = meta_backbone(cfg)
    return not isinstance(network, str) and any(
        isinstance(m, _BatchNorm) for m in network.modules())


def _giving_maps(cfg: Mapping[str, Any], drop: Sequence[str] = ()) -> ConfigDict:
    """The config of a backbone that has to give maps, not one vector."""
    new = clone(cfg)
    target = resolve_type(new['type'], MODELS)
    for option in options(parameter_hints(target).get('output')):
        if get_origin(option) is Literal and 'maps' in get_args(option):
            new.pop('output', None)
            if _default(target, 'output') != 'maps':
                new['output'] = 'maps'
            # It is read by a classifier of its own, and no map shows it.
            drop = (*drop, 'with_distill_token')
    for key in drop:
        if key in new:
            del new[key]
    return new


def _with_interface(new: ConfigDict, old: Mapping[str, Any] | None) -> ConfigDict:
    """Keep what the old part was told about its neighbours, and what the new one needs to be."""
    target = resolve_type(new['type'], MODELS)
    required = [name for name, p in signature_of(target).parameters.items()
                if p.default is inspect.Parameter.empty and name != 'in_channels']
    return _carried(new, old or {}, (*_INTERFACE, *required))


def _carried(new: ConfigDict, old: Mapping[str, Any], keys: Sequence[str]) -> ConfigDict:
    target = resolve_type(new['type'], MODELS)
    accepted, hints = signature_of(target).parameters, parameter_hints(target)
    new = clone(new)
    for key in keys:
        if key in old and key in accepted and key not in new and fits(
                old[key], hints.get(key, Any)):
            new[key] = clone(old[key])
    return new


def _leave_behind(
    values: ConfigDict, weights: str | None, edit: Override, new: Mapping[str, Any]
) -> Iterator[tuple[Override, str]]:
    """What else changes with a backbone: its weights, and hooks that hold its stages still."""
    load = values.get('load_from')
    source = load.get('source') if isinstance(load, Mapping) else load
    if weights is not None:
        start = clone(load) if isinstance(load, Mapping) else ConfigDict(replace_head=True)
        start['source'] = weights
        # Nothing but the backbone itself is promised by its name, and not the norms of maps that
        # no classifier sees.
        inner = '.backbone' if _is_shell(new) else ''
        place = '.'.join(map(str, edit.path[1:])) + inner
        start['allow_missing'] = [rf'^(?!{re.escape(place)}\.(?!norms\.\d))']
        yield (Override(('load_from',), 'set', start, edit.text),
               f'load_from is {weights} now' + (f', instead of {source}' if source else ''))
    elif load:
        yield (Override(('load_from',), 'set', None, edit.text),
               f'load_from ({source}) belonged to the backbone before and is left out')
    if weights is not None:
        return
    hooks = values.get('custom_hooks') or []
    kept = [h for h in hooks if not (isinstance(h, Mapping) and 'num_stages' in h)]
    if len(kept) < len(hooks):
        yield (Override(('custom_hooks',), 'set', clone(kept), edit.text),
               'FreezeHook, which froze its first stages, is left out as well')


def _prepared_for(values: ConfigDict, part: Part,
                  edit: Override) -> Iterator[tuple[Override, str]]:
    """Means and deviations of images become those that the weights were trained with."""
    present = _at(values, ('model', 'preprocessor'))
    for key in ('mean', 'std'):
        wanted = list((part.preprocessing or {})[key])
        has = present.get(key) if isinstance(present, Mapping) else None
        # Images of another number of channels have statistics of their own.
        if isinstance(has, Sequence) and len(has) == len(wanted) and list(has) != wanted:
            yield (Override(('model', 'preprocessor', key), 'set', wanted, edit.text),
                   f'model.preprocessor.{key} is {wanted} now, as {part.weights} wants it')


def _takes_component(hint: Any, value: str) -> bool:
    wanted = [c for c in expected_classes(hint) if not issubclass(c, PLAIN)]
    return bool(wanted) and not fits(value, hint)


def _default(target: Any, argument: str) -> Any:
    parameter = signature_of(target).parameters.get(argument)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _name(cfg: Mapping[str, Any]) -> str:
    return resolve_type(cfg['type'], MODELS).__name__


def _at(values: Any, path: Sequence[str | int]) -> Any:
    """What stands at a path; nothing if it leads nowhere (the edit itself then says so)."""
    for step in path:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return None
    return values
