"""Tables that lead published weights to our parameter names.

A key map sits beside the class it serves, as data: ``weights = [KeyMap('torchvision', ...)]``.
It renames (regular expressions, in order), drops (each with its reason), transforms tensors
(reshape, split, transpose) and merges several into one; names of ours never bend to a source's.

Names are those inside the class. One that begins with ``../`` lies beside it: the map of a
backbone names the classifier of published weights ``../head.fc.``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Transform = Callable[[Tensor], 'Tensor | Mapping[str, Tensor]']


@dataclass(frozen=True)
class KeyMap:
    r"""How the keys of one published format become ours.

    Every rename whose pattern is found in a key is applied (``re.sub``), one after the other, so
    that small rules compose. Drops look at the original key, transforms at the new one.

    Attributes:
        source: name of the format, such as ``'torchvision'`` or ``'timm'``.
        renames: ``(pattern, replacement)`` pairs in order.
        drops: ``(pattern, why)`` pairs for keys that our model has no use for.
        transforms: ``(pattern, function)`` pairs; a function takes the tensor and returns one
            tensor, or a dict of suffix to tensor which replaces ``{key}`` in the pattern's match
            (to split a fused weight).
        merges: ``(pattern, replacement, order)`` triples; new keys that the replacement makes equal
            are joined along the first dimension, in the order that the pattern's first group has
            in ``order`` (query, key and value of one projection).
        signature: patterns that must all be found in some key for the format to be recognised;
            by default the patterns of the renames must each be found.

    Example:
        >>> KeyMap('torchvision', renames=[(r'^fc\.', 'head.fc.')],
        ...        drops=[(r'num_batches_tracked$', 'not used in evaluation')])
    """

    source: str
    renames: Sequence[tuple[str, str]] = ()
    drops: Sequence[tuple[str, str]] = ()
    transforms: Sequence[tuple[str, Transform]] = ()
    merges: Sequence[tuple[str, str, Sequence[str]]] = ()
    signature: Sequence[str] = field(default=())

    def rename(self, key: str) -> str:
        """The name of ours for one key."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def apply_at(self, prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Apply the map for a module at ``prefix`` (``'backbone.'``) of a model.

        Where the module is the whole model (no prefix), what lies beside it is left out.
        """
        parent = prefix.rstrip('.').rpartition('.')[0]
        beside = f'{parent}.' if parent else ''
        return {
            beside + name.removeprefix('../') if name.startswith('../') else prefix + name: tensor
            for name, tensor in self.apply(state).items()
            if prefix or not name.startswith('../')}

    def dropped(self, state: Mapping[str, Tensor]) -> dict[str, str]:
        """Keys that the map leaves out, with the reason."""
        reasons = {}
        for key in state:
            for pattern, why in self.drops:
                if re.search(pattern, key):
                    reasons[key] = why
                    break
        return reasons

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename, drop and transform; the given mapping is left as it is.

        Raises:
            ValueError: if two keys would get the same name.
        """
        left_out = self.dropped(state)
        result: dict[str, Tensor] = {}
        origin: dict[str, str] = {}
        for key, tensor in state.items():
            if key in left_out:
                continue
            for name, value in self._transformed(self.rename(key), tensor):
                if name in result:
                    raise ValueError(
                        f'key map {self.source!r} gives both {origin[name]!r} and {key!r} the name '
                        f'{name!r}; make one of its renames more specific')
                result[name] = value
                origin[name] = key
        for pattern, replacement, order in self.merges:
            result = _merged(result, pattern, replacement, order)
        return result

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """Whether ``state`` looks like this format."""
        patterns = self.signature or [pattern for pattern, _ in self.renames]
        return bool(patterns) and all(
            any(re.search(pattern, key) for key in state) for pattern in patterns)

    def _transformed(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        for pattern, function in self.transforms:
            if re.search(pattern, name):
                value = function(tensor)
                if isinstance(value, Mapping):
                    return [(re.sub(pattern, new, name), part) for new, part in value.items()]
                tensor = value
        return [(name, tensor)]


def _merged(state: Mapping[str, Tensor], pattern: str, replacement: str,
            order: Sequence[str]) -> dict[str, Tensor]:
    """``state`` with each complete group of tensors joined; incomplete groups stay as they are."""
    groups: dict[str, dict[str, str]] = {}
    for key in state:
        found = re.search(pattern, key)
        if found:
            groups.setdefault(re.sub(pattern, replacement, key), {})[found.group(1)] = key
    complete = {name: [members[part] for part in order] for name, members in groups.items()
                if set(members) == set(order)}
    used = {key for keys in complete.values() for key in keys}
    result = {key: tensor for key, tensor in state.items() if key not in used}
    for name, keys in complete.items():
        result[name] = torch.cat([state[key] for key in keys])
    return result
