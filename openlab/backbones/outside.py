"""What the backbones that wrap networks of other libraries share.

B batch · C channels · H, W height and width of the image · h, w those of a map
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterable, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.func import functional_call

from openlab.utils.offline import is_offline
from openlab.zoo.key_map import KeyMap

# Where classifiers of other libraries keep the layer that LinearHead calls ``fc``.
_CLASSIFIERS = ('fc', 'classifier', 'head', r'head\.fc', r'head\.l', r'heads\.head',
                *(rf'classifier\.{i}' for i in (1, 2, 3, 5, 6)))


def import_library(name: str, component: str) -> ModuleType:
    """Import an optional library for a component that needs it.

    Where ``OPENLAB_OFFLINE`` is set, the hub that such libraries download from is told so.

    Raises:
        ImportError: if it is not installed; the message has the line that installs it.
    """
    if is_offline():
        os.environ.setdefault('HF_HUB_OFFLINE', '1')  # read when the hub's library is imported
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # it is there, and misses something of its own
        raise ImportError(f'{component} needs {name}: pip install {name}', name=name) from error


def near_names(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` with the nearest of ``known`` names, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(near)}?' if near else ''


def pick_maps(
    strides: Sequence[int],
    out_stages: Sequence[int] | None,
    out_indices: Sequence[int] | None,
    name: str,
) -> tuple[int, ...]:
    """Positions of the wanted maps among all that a network has.

    Args:
        strides: stride of each map of the network, from fine to coarse.
        out_stages: stage k stands for the last map at stride 2^k.
        out_indices: positions themselves; negative ones count from the end. By default the last.
        name: the network, for messages.

    Raises:
        ValueError: if there is no such map, both ways of naming them are used, or they do not
            rise.
    """
    has = f'{name} has {len(strides)} maps, with strides {", ".join(map(str, strides))}'
    if out_stages is not None and out_indices is not None:
        raise ValueError('give out_stages or out_indices, not both')
    if out_stages is None:
        indices = (-1,) if out_indices is None else tuple(out_indices)
        wrong = [i for i in indices if not -len(strides) <= i < len(strides)]
        if wrong or not indices:
            raise ValueError(f'out_indices={indices}: {has}')
        picked = tuple(i % len(strides) for i in indices)
    else:
        last = {stride: i for i, stride in enumerate(strides)}
        missing = [k for k in out_stages if 2**k not in last]
        if missing:
            raise ValueError(f'out_stages={tuple(out_stages)} asks for the last map at stride '
                             f'{2 ** missing[0]}: {has}')
        picked = tuple(last[2**k] for k in out_stages)
    if list(picked) != sorted(set(picked)):
        raise ValueError(f'the maps that come out must rise; {has}')
    return picked


def probe(module: nn.Module, inputs: Tensor) -> tuple[list[Tensor], list[str]]:
    """Run a module in evaluation mode on the meta device, which neither computes nor allocates.

    Args:
        module: gives a tuple of tensors; its own parameters stay as and where they are.
        inputs: a tensor of the meta device.

    Returns:
        The outputs, and the names of parameters on which none of them depends.
    """
    buffers = {n: b.to('meta') for n, b in module.named_buffers()}
    parameters = {n: torch.empty_like(p, device='meta').requires_grad_(p.is_floating_point())
                  for n, p in module.named_parameters()}
    was_training = module.training
    module.eval()
    with torch.device('meta'), torch.enable_grad():
        outputs = functional_call(module, {**parameters, **buffers}, (inputs,))
        sum(o.sum() for o in outputs).backward()
    module.train(was_training)
    return list(outputs), [n for n, p in parameters.items() if p.grad is None]


def freeze(module: nn.Module, names: Iterable[str]) -> None:
    """Take parameters out of training: DDP and optimizers stumble over those without gradient."""
    wanted = set(names)
    for name, parameter in module.named_parameters():
        if name in wanted:
            parameter.requires_grad_(False)


def library_maps(source: str, *ways: tuple[str, str]) -> tuple[KeyMap, ...]:
    """Key maps of a library's own weights, with and without a classifier.

    Args:
        source: name of the library.
        ways: ``(pattern, replacement)`` pairs, each one way in which names of the library become
            those of the backbone; what a pattern leaves alone goes into ``net``.
    """
    maps = []
    for way in ways:
        # What the classifier's rename has led away begins with ``../`` and must stay there.
        renames = (way, (r'^(?!\.\./|net\.)', 'net.'))
        maps += [
            KeyMap(source, ((rf'^{name}\.(weight|bias)$', r'../head.fc.\1'), *renames),
                   signature=(rf'^{name}\.weight$',))
            for name in _CLASSIFIERS]
        maps.append(KeyMap(source, renames, signature=('.',)))
    return tuple(maps)
