"""Compare a backbone of ours with another project's model that has the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.heads.linear_head import LinearHead
from openlab.zoo.key_map import KeyMap

RELATIVE = 1e-4


def assert_equal_to_peer(backbone: nn.Module, peer: nn.Module, key_map: KeyMap, size: int = 32,
                         num_classes: int = 7, train: bool = True,
                         head: nn.Module | None = None, neck: nn.Module | None = None,
                         batch: int = 2, elementwise: bool = True) -> None:
    """Outputs in training and evaluation, parameter counts and all gradients are equal.

    Outputs may differ by ``RELATIVE`` of each, or (not ``elementwise``) of the largest: logits near
    zero that a head normalises over the batch are mostly rounding.
    """
    torch.manual_seed(0)
    for p in peer.parameters():  # published inits hold zeros and ones, which would hide mistakes
        if p.ndim <= 1:
            nn.init.uniform_(p, 0.5, 1.0)
    head = head or LinearHead(num_classes, backbone.out_channels[-1])
    ours = ImageClassifier(backbone, neck, head=head)
    named = loaded(key_map, dict(peer.named_parameters()))  # less what the map drops
    assert count(ours) == sum(p.numel() for p in named.values())
    ours.load_state_dict(loaded(key_map, peer.state_dict()))

    images = torch.randn(batch, 3, size, size)
    for mode in (True, False) if train else (False,):
        ours.train(mode), peer.train(mode)
        if elementwise:
            torch.testing.assert_close(ours(images), peer(images), rtol=RELATIVE, atol=1e-5)
        else:
            assert relative_error(ours(images), peer(images)) < RELATIVE
        # Statistics agree; from here on they are the same, so that rounding does not add up.
        state, own = loaded(key_map, peer.state_dict()), dict(ours.named_buffers())
        for name in own.keys() & state.keys():
            assert relative_error(own[name].double(), state[name].double(), 1e-6) < RELATIVE, name
        ours.load_state_dict(state)

    # In double precision: gradients that are small sums of large terms are lost to rounding.
    ours.double(), peer.double()
    images, weight = images.double(), torch.randn(batch, num_classes).double()
    (ours(images) * weight).sum().backward()
    (peer(images) * weight).sum().backward()
    grads = loaded(key_map, {n: p.grad for n, p in peer.named_parameters()})
    largest = max(g.abs().max().item() for g in grads.values())
    for name, parameter in ours.named_parameters():
        # Some are zero by symmetry (biases of keys before a softmax): what is left is rounding.
        error = relative_error(parameter.grad, grads[name], floor=1e-12 * largest)
        assert error < RELATIVE, name


def loaded(key_map: KeyMap, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names of a classifier of ours."""
    return key_map.apply_at('backbone.', state)


def relative_error(value: Tensor, expected: Tensor, floor: float = 1e-12) -> float:
    """Largest difference over the largest expected value, which counts as ``floor`` at least."""
    scale = expected.abs().max().clamp(min=floor)
    return ((value - expected).abs().max() / scale).item()


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def key_map(backbone: type, source: str, state: dict[str, Tensor] | None = None) -> KeyMap:
    """The (first) key map of ``backbone`` for ``source``, and for names as in ``state``."""
    return next(m for m in backbone.weights
                if m.source == source and (state is None or m.matches(state)))


def assert_names_fit(module: nn.Module, key_map: KeyMap, shapes: dict[str, Sequence[int]]) -> None:
    """Names and shapes of published weights are, once mapped, those of ``module``."""
    theirs = {name: torch.empty(tuple(shape), device='meta') for name, shape in shapes.items()}
    assert key_map.matches(theirs)
    mapped = {n: tuple(t.shape) for n, t in key_map.apply(theirs).items()
              if not n.startswith('../') and not n.endswith('num_batches_tracked')}
    assert mapped == {n: tuple(t.shape) for n, t in module.state_dict().items()
                      if not n.endswith('num_batches_tracked')}
