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
    """Root mean square normalisation, with a gradient of few passes where torch has no kernel.

    Zhang and Sennrich, https://arxiv.org/abs/1910.07467. On CPUs torch puts the operation together
    from many, and differentiates each; the formula in one piece takes a third of the time. Other
    devices, compiled code and evaluation use torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D) over its last dimension."""
        is_own = (x.device.type == 'cpu' and x.requires_grad and self.weight is not None
                  and x.dtype == self.weight.dtype and len(self.normalized_shape) == 1
                  and not torch.compiler.is_compiling())
        if not is_own:
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        normed: Tensor = _RMSNormFunction.apply(x, self.weight, eps)  # type: ignore[no-untyped-call]
        return normed


class _RMSNormFunction(torch.autograd.Function):
    """With r = 1 / rms(x): y = w r x; dx = r (w dy - r^2 x mean(w x dy)); dw = sum(r x dy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, x.shape[-1:], weight, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        inverse = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()
        inverse = inverse.div_(x.shape[-1]).add_(ctx.eps).rsqrt_()
        product = grad_output.reshape(rows.shape) * rows
        # Sums over rows and over columns as products with a vector, which are fast.
        grad_weight = inverse.T @ product
        mean = (product @ weight[:, None]).mul_(inverse**3).div_(-x.shape[-1])
        grad = torch.mul(grad_output.reshape(rows.shape), weight, out=product)
        return grad.mul_(inverse).addcmul_(rows, mean).view(x.shape), grad_weight.view(-1), None
