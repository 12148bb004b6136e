"""What the tests of all wrappers of other libraries' networks check alike."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from openlab.config.build import build


def assert_maps_as_promised(backbone: nn.Module, size: tuple[int, int] = (64, 64)) -> None:
    """Channels and strides are those that the backbone tells the next part."""
    with torch.no_grad():
        maps = backbone.eval()(torch.randn(2, 3, *size))
    assert isinstance(maps, tuple)
    assert tuple(m.shape[1] for m in maps) == backbone.out_channels
    assert [(size[0] // m.shape[2], size[1] // m.shape[3]) for m in maps] == [
        (s, s) for s in backbone.strides]


def assert_serves_detectors_and_segmentors(cfg: dict[str, Any], size: int = 64) -> None:
    """FCOS on three maps, DeepLabV3 on the last; channels are derived."""
    image = torch.randn(1, 3, size, size)
    detector = build({
        'type': 'FCOS', 'backbone': {**cfg, 'out_stages': (3, 4, 5)},
        'neck': {'type': 'FPN', 'out_channels': 64, 'extra': 'p6p7', 'extra_from': 'p5'},
        'head': {'type': 'FCOSHead', 'num_classes': 3, 'num_convs': 1}})
    segmentor = build({'type': 'DeepLabV3', 'backbone': cfg,
                       'head': {'type': 'DeepLabV3Head', 'num_classes': 3, 'channels': 8}})
    with torch.no_grad():
        outputs = detector.eval()(image)
        logits = segmentor.eval()(image).logits
    tensors = [t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor)]
    assert tensors and all(t.isfinite().all() for t in tensors)
    assert logits.shape[:2] == (1, 3)


def assert_learns_and_returns_from_disk(backbone: nn.Module, size: int = 64) -> None:
    """Each trained parameter gets a gradient; a copy and saved weights give the same maps."""
    images = torch.randn(2, 3, size, size)
    sum((m * torch.randn_like(m)).sum() for m in backbone.train()(images)).backward()
    trained = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    missing = [n for n, p in trained.items() if p.grad is None]
    assert trained and not missing
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
        expected = backbone.eval()(images)
        assert not torch.equal(other.eval()(images)[-1], expected[-1])
        other.load_state_dict(backbone.state_dict())
        for a, b in zip(other.eval()(images), expected, strict=True):
            assert torch.equal(a, b)
