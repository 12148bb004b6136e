"""Which parameter gets which learning rate and weight decay."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_FACTORS = ('lr_mult', 'decay_mult')
_BLOCKS = re.compile(r'^(?P<prefix>.*?)(?P<list>blocks|layers|stages|layer)[._]?(?P<index>\d+)\.')


def build_param_groups(
    model: nn.Module,
    lr: float | None,
    weight_decay: float | None = None,
    norm_decay_mult: float = 1.0,
    bias_decay_mult: float = 1.0,
    bias_lr_mult: float = 1.0,
    layer_decay: float | None = None,
    custom_keys: Mapping[str, Mapping[str, Any]] | None = None,
    options: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Sort the parameters of a model into groups of equal lr and weight decay.

    Factors multiply. Where several ``custom_keys`` fit a parameter, the longest decides, and
    the norm and bias factors do not apply to it.

    Args:
        model: whose parameters are sorted; each is taken once, also where it is shared.
        lr: of the optimizer; needed as soon as a factor on it is asked for.
        weight_decay: of the optimizer; 0 where it is not given.
        norm_decay_mult: factor on the weight decay of norm layers' parameters.
        bias_decay_mult: factor on the weight decay of biases outside norm layers.
        bias_lr_mult: factor on the lr of biases outside norm layers.
        layer_decay: factor on the lr for each layer further from the head (0.65 to 0.8 when
            fine-tuning a transformer).
        custom_keys: ``{pattern: dict(lr_mult=..., decay_mult=...)}``; a pattern is a part of
            the name, or a glob over all of it (``'backbone.blocks.*.bias'``). Further keys are
            options of the optimizer for these parameters (``dict(orthogonal=False)`` of Muon).
        options: such keys that the optimizer knows.

    Raises:
        ValueError: if a pattern fits no parameter, or a factor has nothing to multiply.
    """
    custom = {pattern: _checked_rule(pattern, rule, options)
              for pattern, rule in (custom_keys or {}).items()}
    names = [name for name, _ in model.named_parameters()]
    _check_patterns(custom, names)
    norms = {f'{prefix}.{name}'.lstrip('.') for prefix, module in model.named_modules()
             if _is_norm(module) for name, _ in module.named_parameters(recurse=False)}
    without_decay: Any = getattr(model, 'no_weight_decay', set)
    unpenalised = set(without_decay())
    depth_of = layer_depths(model) if layer_decay is not None else {}
    deepest = max(depth_of.values(), default=0)

    groups: dict[tuple[float, float, str], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        lr_mult = decay_mult = 1.0
        own: dict[str, Any] = {}
        rule = _rule_for(name, custom)
        if rule is not None:
            lr_mult, decay_mult = rule.get('lr_mult', 1.0), rule.get('decay_mult', 1.0)
            own = {k: v for k, v in rule.items() if k not in _FACTORS}
        elif name in unpenalised:
            decay_mult = 0.0
        elif name in norms:
            decay_mult = norm_decay_mult
        elif name.rpartition('.')[2] == 'bias':
            lr_mult, decay_mult = bias_lr_mult, bias_decay_mult
        if layer_decay is not None:
            lr_mult *= layer_decay ** (deepest - depth_of[name])
        group = groups.setdefault((lr_mult, decay_mult, repr(own)), {'params': [], **own})
        group['params'].append(parameter)

    if not groups:
        raise ValueError(f'{type(model).__name__} has no parameters to optimize')
    for (lr_mult, decay_mult, _), group in groups.items():
        if lr_mult != 1.0:
            if lr is None:
                raise ValueError('paramwise changes learning rates: set optimizer.lr')
            group['lr'] = lr * lr_mult
        if decay_mult != 1.0:
            group['weight_decay'] = (weight_decay or 0.0) * decay_mult
    return list(groups.values())


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Depth of the layer that each parameter belongs to: 0 for the stem, largest for the head.

    A backbone may say itself by a method ``layer_depth(name) -> int``. Otherwise the blocks of
    the first ``blocks``, ``layers``, ``stages`` or ``layer1`` ... count 1, 2, ...; what stands
    before them in the backbone is 0, and what follows is one deeper than the last.
    """
    backbone, prefix = innermost_backbone(model)
    names = [name for name, _ in model.named_parameters()]
    if hasattr(backbone, 'layer_depth'):
        own = {n: backbone.layer_depth(n.removeprefix(prefix)) for n in names
               if n.startswith(prefix)}
    else:
        own = _depths_by_block([n for n in names if n.startswith(prefix)], prefix)
    deepest = max(own.values(), default=0)
    return {name: own.get(name, deepest + 1) for name in names}


def innermost_backbone(model: nn.Module) -> tuple[Any, str]:
    """The network with the stages, and what its parameters' names begin with in the model.

    A backbone may be a shell around another one (``DenseBackbone``). A model without a backbone
    is its own.
    """
    backbone, prefix = model, ''
    while isinstance(getattr(backbone, 'backbone', None), nn.Module):
        backbone, prefix = backbone.backbone, f'{prefix}backbone.'  # type: ignore[assignment]
    return backbone, prefix


def _depths_by_block(names: list[str], prefix: str) -> dict[str, int]:
    blocks: dict[str, tuple[int, ...]] = {}
    for name in names:
        match = _BLOCKS.match(name.removeprefix(prefix))
        if match:
            inner = re.match(r'(\d+)\.', name.removeprefix(prefix)[match.end():])
            # ResNet's layer1.0, layer1.1 ...: each block of a stage is a layer of its own
            is_stage = match['list'] in ('layer', 'stages')
            blocks[name] = (int(match['index']), int(inner[1]) if inner and is_stage else 0)
    if not blocks:
        raise ValueError(
            'paramwise.layer_decay: the backbone shows no sequence named blocks, layers, stages '
            f'or layer1, layer2 ...; give it a method layer_depth(name). It has {names[:5]} ...')
    order = {place: i + 1 for i, place in enumerate(sorted(set(blocks.values())))}
    last = len(order)
    first_block = next(i for i, name in enumerate(names) if name in blocks)
    return {
        name: order[blocks[name]] if name in blocks
        else 0 if i < first_block or _is_embedding(name, prefix) else last + 1
        for i, name in enumerate(names)
    }


def _is_embedding(name: str, prefix: str) -> bool:
    return bool(re.search(r'embed|token|stem', name.removeprefix(prefix)))


def _is_norm(module: nn.Module) -> bool:
    known = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)
    return isinstance(module, known) or type(module).__name__.endswith('Norm')


def _checked_rule(pattern: str, rule: Mapping[str, Any],
                  options: Collection[str]) -> Mapping[str, Any]:
    accepted = (*_FACTORS, *(o for o in options if o not in ('params', 'lr', 'weight_decay')))
    for key in rule:
        if key not in accepted:
            raise ValueError(f'optim_wrapper.paramwise.custom_keys[{pattern!r}] has {key!r}; '
                             f'accepted: {", ".join(accepted)}')
    return rule


def _fits(name: str, pattern: str) -> bool:
    return pattern in name or fnmatch.fnmatchcase(name, pattern)


def _rule_for(name: str, custom: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    fitting = [pattern for pattern in custom if _fits(name, pattern)]
    return custom[max(fitting, key=len)] if fitting else None


def _check_patterns(custom: Mapping[str, Any], names: list[str]) -> None:
    for pattern in custom:
        if any(_fits(name, pattern) for name in names):
            continue
        parts = {'.'.join(n.split('.')[:k]) for n in names for k in range(1, n.count('.') + 2)}
        near = difflib.get_close_matches(pattern, sorted(parts), n=3, cutoff=0.4)
        hint = f'; near: {", ".join(near)}' if near else f'; names begin like {names[0]}'
        raise ValueError(
            f'optim_wrapper.paramwise.custom_keys[{pattern!r}] fits no parameter{hint}')
