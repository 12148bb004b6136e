"""Batch normalisation over the batches of all processes, on any device.

torch has a synchronised batch norm for accelerators only. This one needs no kernels of its own:
it sums over the processes with whatever backend they talk by (gloo on CPUs), and autograd takes
the gradient back the same way.

N items · C channels · ... any further dimensions
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor of all processes; so is its gradient, as each sum feeds each loss."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance in training are those of the batches of all processes.

    Batches may differ in size: every item counts once. In evaluation, and in a single process,
    it is the ordinary layer. Arguments are those of ``nn.BatchNorm2d``.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f'SyncBatchNorm takes (N, C, ...), not {input.dim()} dimensions')

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of (N, C, ...)."""
        uses_batch = self.training or self.running_mean is None
        if not uses_batch or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype is torch.float64 else input.float()
        others = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.new_full((1,), float(x.numel() // max(x.shape[1], 1)))
        sums = _SumOverProcesses.apply(torch.cat([x.sum(others), count]))
        total = sums[-1].detach()
        if total <= 1:
            raise ValueError('SyncBatchNorm needs more than one value for each channel in '
                             f'training, but all processes together have {int(total)}')
        mean = sums[:-1] / total
        centred = x - mean.view(shape)
        # A second round, instead of squares in the first one: their difference loses digits.
        var = _SumOverProcesses.apply(centred.square().sum(others)) / total
        if self.training and self.track_running_stats:
            self._track(mean.detach(), var.detach() * (total / (total - 1)))
        y = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics; ``var`` is the unbiased one, as torch keeps it."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the plain mean of all batches so far
            momentum = 1.0 / float(self.num_batches_tracked or 1)
        for running, new in ((self.running_mean, mean), (self.running_var, var)):
            if running is not None:
                running.lerp_(new.to(running.dtype), momentum)


def convert_sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let all batch norms of a model see the batches of all processes.

    torch's own layer is taken where it works. Parameters, buffers and names stay the same.

    Returns:
        The model, changed in place; a new module only if it is itself a batch norm.
    """
    if device.type in _NATIVE:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if isinstance(model, _BatchNorm) and not isinstance(model, SyncBatchNorm):
        new = SyncBatchNorm(model.num_features, model.eps, model.momentum, model.affine,
                            model.track_running_stats)
        new.weight, new.bias = model.weight, model.bias
        new.running_mean, new.running_var = model.running_mean, model.running_var
        new.num_batches_tracked = model.num_batches_tracked
        return new.train(model.training)
    for name, child in model.named_children():
        changed = convert_sync_batch_norm(child, device)
        if changed is not child:
            setattr(model, name, changed)
    return model


_NATIVE = ('cuda', 'xpu')
