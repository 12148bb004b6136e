"""Run by torchrun from test_in_a_run.py: losses, gradients and centre of one of two processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openlab.algorithms.selfsup.dino import DINO, DINOHead
from openlab.algorithms.selfsup.moco_v3 import MoCoV3
from openlab.algorithms.selfsup.simclr import SimCLR
from openlab.backbones.vit import VisionTransformer
from openlab.engine import distributed
from openlab.heads.projector import Projector
from tests.algorithms.selfsup.common import samples_of

NORM = {'type': nn.LayerNorm}  # batch norms of two processes see different batches
STEPS = 3


def make(method: str) -> Any:
    """A small model without anything that looks across the batch but the loss."""
    torch.manual_seed(0)
    backbone = VisionTransformer(embed_dim=16, depth=1, num_heads=2, patch_size=8, image_size=16)
    projector = Projector(16, 8, 2, 16, norm=NORM)
    if method == 'simclr':
        return SimCLR(backbone, projector)
    if method == 'moco_v3':
        return MoCoV3(backbone, projector, Projector(16, 8, 2, 8, norm=NORM), momentum=0.5)
    return DINO(backbone, DINOHead(12, 16, 24, 8), momentum=0.5)


def train(method: str, rank: int = 0, count: int = 1) -> dict[str, Tensor]:
    """Take a few steps on this process's share of each batch.

    Returns:
        Losses (mean over processes), gradients of the last step, all weights and buffers.
    """
    model = make(method).train()
    whole = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(v))
             for v in range(2)]
    views = [view.chunk(count)[rank] for view in whole]
    wrapped = DistributedDataParallel(model) if count > 1 else model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        found = wrapped(views, samples_of(len(views[0])), mode='loss')
        loss = next(v for k, v in found.items() if k.startswith('loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(distributed.all_reduce(loss, 'mean'))
    grads = {f'grad.{n}': p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {'losses': torch.stack(losses), **grads, **model.state_dict()}


def main(folder: str) -> None:
    """Write what every rank has."""
    distributed.start_process_group()
    rank = distributed.rank()
    found = {method: train(method, rank, 2) for method in ('simclr', 'moco_v3', 'dino')}
    torch.save(found, Path(folder) / f'rank{rank}.pt')
    distributed.stop_process_group()


if __name__ == '__main__':
    main(sys.argv[1])
