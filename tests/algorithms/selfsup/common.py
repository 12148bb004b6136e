"""What the tests of self-supervised algorithms share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openlab.structures.data_sample import DataSample


def samples_of(count: int) -> list[DataSample]:
    """Samples without truth."""
    return [DataSample(meta={'img_id': i}) for i in range(count)]


def images_with_shapes(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Images (B, 3, H, W) of smooth waves, each of its own direction and colour."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij')
    images = []
    for _ in range(count):
        a, b, *phases = torch.rand(5, generator=generator).tolist()
        images.append(torch.stack([((a * x + b * y) + 6 * p).sin() for p in phases]))
    return torch.stack(images)


def views_with_shapes(count: int, num_views: int = 2, size: int = 32) -> list[Tensor]:
    """Views of the same images that differ by noise and a shift."""
    images = images_with_shapes(count, size + 4)
    generator = torch.Generator().manual_seed(1)
    views = []
    for _ in range(num_views):
        top, left = torch.randint(5, (2,), generator=generator).tolist()
        view = images[:, :, top:top + size, left:left + size]
        views.append(view + 0.1 * torch.randn(view.shape, generator=generator))
    return views


def losses_of_training(model: nn.Module, inputs: Tensor | list[Tensor], steps: int,
                       lr: float = 3e-3) -> list[float]:
    """Train on one batch as the loop does, with the same random numbers; the loss of each step."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    count = len(inputs) if isinstance(inputs, Tensor) else len(inputs[0])
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        found = model(inputs, samples_of(count), mode='loss')
        loss = sum(v for k, v in found.items() if k.startswith('loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(loss.item())
    return losses
