"""Normalisation layers by config, and the one that libraries lack in channels-first form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn

from openlab.layers.types import layer_class
from openlab.registry import MODELS


def make_norm(channels: int, norm: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a normalisation layer for ``channels`` channels.

    Args:
        channels: number of channels that the layer sees.
        norm: ``dict(type=..., **arguments)``; by default batch normalisation. Any class that
            takes its number of channels first will do (detection backbones take
            ``FrozenBatchNorm2d``), and ``torch.nn.GroupNorm``.
    """
    arguments = dict(norm or {})
    layer = layer_class(arguments.pop('type', nn.BatchNorm2d))
    if layer is nn.GroupNorm:
        return nn.GroupNorm(num_channels=channels, **arguments)
    return layer(channels, **arguments)


@MODELS.register_module()
class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch normalisation that never learns: torchvision's, in one pass instead of two."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the statistics of pre-training."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            eps=self.eps)


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a map, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position on its own."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@MODELS.register_module()
class RMSNorm(nn.RMSNorm):
    """Root mean square normalisation in few operations, where torch has no kernel for it.

    Zhang and Sennrich, https://arxiv.org/abs/1910.07467. On CPUs torch puts it together from many
    operations and differentiates each; written out, a token takes half of the time and training a
    third. Other devices and compiled code use torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D) over its last dimension."""
        weight = self.weight
        is_own = (x.device.type == 'cpu' and weight is not None and x.dtype == weight.dtype
                  and x.dtype in (torch.float32, torch.float64) and weight.dim() == 1
                  and not torch.compiler.is_compiling() and not torch.jit.is_tracing())
        if not is_own:
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        if not torch.is_grad_enabled():
            return (x * _inverse_rms(x, eps)).mul_(weight)
        normed: Tensor = _RMSNormFunction.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed


class _RMSNormFunction(torch.autograd.Function):
    """With r = 1 / rms(x): y = w r x; dx = r (w dy - r^2 x mean(w x dy)); dw = sum(r x dy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        rows, inverse = x.reshape(-1, x.shape[-1]), inverse.reshape(-1, 1)
        grad = grad_output.reshape(rows.shape)
        product = grad * rows
        # Sums over rows and over columns as products with a vector, which are fast.
        grad_weight = inverse.T @ product
        mean = (product @ weight[:, None]).mul_(inverse**3).div_(-x.shape[-1])
        grad_rows = torch.mul(grad, weight, out=product).mul_(inverse).addcmul_(rows, mean)
        return grad_rows.view(x.shape), grad_weight.view(-1), None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
