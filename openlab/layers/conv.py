"""Convolution, normalisation, activation: the brick of convolutional networks."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from openlab.layers.act import make_act
from openlab.layers.norm import make_norm

LARGE_MAP = 2**18  # values; a pass over fewer takes less time than the arithmetic of folding


def make_conv(in_channels: int, out_channels: int, kernel: int,
              norm: dict[str, Any] | None = None) -> nn.Module:
    """A convolution that keeps the size; where ``norm`` is given, with it and without a bias."""
    if norm is None:
        return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return ConvNormAct(in_channels, out_channels, kernel, norm=norm, with_act=False)


class ConvNormAct(nn.Sequential):
    """A convolution with its normalisation and activation, as ``conv``, ``norm`` and ``act``.

    A batch normalisation with fixed statistics is only a factor and an offset for each channel.
    Where the map is larger than the kernel, these go into the kernel, which saves a pass or two
    over the map; see ``fold_norm``.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        kernel: side of the kernel, or its (height, width).
        stride: step between two outputs.
        padding: zeros around the map; by default what keeps its size at stride 1. ``'same'`` is
            TensorFlow's rule, see ``Conv2dSame``.
        dilation: step between two taps of the kernel.
        groups: groups of channels that do not see each other.
        norm: see ``make_norm``; ``None`` is batch normalisation.
        act: see ``make_act``; ``None`` is ReLU.
        bias: add a bias to the convolution; by default where no normalisation follows.
        with_norm: ``False`` leaves the normalisation out.
        with_act: ``False`` leaves the activation out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        padding: int | tuple[int, int] | Literal['same'] | None = None,
        dilation: int = 1,
        groups: int = 1,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        bias: bool | None = None,
        with_norm: bool = True,
        with_act: bool = True,
    ):
        super().__init__()
        bias = not with_norm if bias is None else bias
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        if padding == 'same':
            self.conv: nn.Conv2d = Conv2dSame(in_channels, out_channels, sides, stride, 0,
                                              dilation, groups, bias)
        else:
            if padding is None:
                padding = (dilation * (sides[0] - 1) // 2, dilation * (sides[1] - 1) // 2)
            self.conv = nn.Conv2d(in_channels, out_channels, sides, stride, padding, dilation,
                                  groups, bias)
        if with_norm:
            self.norm = make_norm(out_channels, norm)
        if with_act:
            self.act = make_act(act)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self._fold_from = LARGE_MAP * in_channels // out_channels  # values that come in

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        if x.numel() < self._fold_from or not self._is_folding_cheaper(x):
            for module in self._modules.values():
                x = module(x)  # type: ignore[misc]
            return x
        x = self.conv._conv_forward(x, *fold_norm(self.conv.weight, self.norm, self.conv.bias))
        for name, module in self.named_children():  # activation, and what was put behind it
            if name not in ('conv', 'norm'):
                x = module(x)
        return x

    def _is_folding_cheaper(self, x: Tensor) -> bool:
        """Whether to fold: with fixed statistics, large maps, and nobody listening in between.

        Not on other devices, where the pass saved costs less than the launches added, and not
        in compiled code, which fuses the pass anyway.
        """
        places = x.numel() // self.in_channels
        norm, kernel, (down, across) = self._modules.get('norm'), self.conv.weight, self.conv.stride
        places //= down * across
        return (norm is not None and _is_fixed(norm) and x.device.type == 'cpu'
                and x.dtype == kernel.dtype == torch.float32
                and places * self.out_channels >= LARGE_MAP and places >= kernel[0].numel()
                and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
                and not any(_has_hooks(module) for module in (self.conv, norm)))


def fold_norm(weight: Tensor, norm: Any,
              bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that has taken in the batch normalisation behind it.

    Args:
        weight: of the convolution, (C, ...).
        norm: with the statistics to use.
        bias: of the convolution, (C,), where it has one.
    """
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    offset = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    if norm.bias is not None:
        offset = offset + norm.bias
    return weight * scale[:, None, None, None], offset


def _is_fixed(norm: nn.Module) -> bool:
    """Whether a normalisation is a batch normalisation that uses the statistics it has."""
    if type(norm) is nn.BatchNorm2d:
        return not norm.training and norm.running_mean is not None
    return isinstance(norm, FrozenBatchNorm2d)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks
                or module._backward_hooks or module._backward_pre_hooks)


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's padding, which depends on the size of the map.

    The output has ceil(size / stride) positions. Where an odd number of zeros is needed, the
    extra one stands at the bottom and the right, so that a stride of 2 samples other pixels than
    with symmetric padding: weights trained with one rule lose accuracy under the other.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Pad (B, C, H, W) as needed and convolve."""
        pads = [_same_padding(input.shape[2 + i], self.kernel_size[i], int(self.stride[i]),
                              int(self.dilation[i])) for i in (0, 1)]
        (top, bottom), (left, right) = pads
        padded = F.pad(input, (left, right, top, bottom))
        return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    steps = (size + stride - 1) // stride
    total = max((steps - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2
