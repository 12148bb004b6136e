"""Branches that are trained side by side and then folded into one convolution.

* Ding et al., RepVGG, https://arxiv.org/abs/2101.03697, section 3.3
* Vasu et al., MobileOne, https://arxiv.org/abs/2206.04040, section 3.3

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct, fold_norm
from openlab.layers.se import SqueezeExcite


class RepConv(nn.Module):
    """Sum of convolutions with different kernels, each with its norm, and of the input.

    All of it is linear, so that ``deploy()`` folds it into one convolution with a bias.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        kernels: side of the kernel of each branch, the largest first.
        stride: step of the convolutions.
        groups: groups of the convolutions.
        with_identity: add the input, normalised, where its shape is that of the output.
        se_hidden: channels of the bottleneck of squeeze and excitation behind the sum; 0 leaves it
            out.
        act: activation at the end, see ``make_act``; ``None`` leaves it out.
        deployed: build the one convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: Sequence[int],
                 stride: int = 1, groups: int = 1, with_identity: bool = True, se_hidden: int = 0,
                 act: dict[str, Any] | None = None, deployed: bool = False):
        super().__init__()
        self.kernel, self.stride, self.groups = kernels[0], stride, groups
        self.fused: nn.Conv2d | None = None
        self.branches: nn.ModuleList | None = None
        self.identity: nn.BatchNorm2d | None = None
        if deployed:
            self.fused = nn.Conv2d(in_channels, out_channels, self.kernel, stride,
                                   self.kernel // 2, groups=groups)
        else:
            self.branches = nn.ModuleList(
                ConvNormAct(in_channels, out_channels, kernel, stride, groups=groups,
                            with_act=False) for kernel in kernels)
            if with_identity and in_channels == out_channels and stride == 1:
                self.identity = nn.BatchNorm2d(in_channels)
        self.se = SqueezeExcite(out_channels, se_hidden) if se_hidden else nn.Identity()
        self.act = make_act(act) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        if self.fused is not None:
            return self.act(self.se(self.fused(x)))
        assert self.branches is not None
        y = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return self.act(self.se(y))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution, with the statistics that the norms have now."""
        if self.fused is not None:
            assert self.fused.bias is not None
            return self.fused.weight, self.fused.bias
        assert self.branches is not None
        weights, biases = [], []
        for branch in self.branches:
            assert isinstance(branch, ConvNormAct)
            border = (self.kernel - branch.conv.kernel_size[0]) // 2
            weight, bias = fold_norm(F.pad(branch.conv.weight, [border] * 4), branch.norm)
            weights.append(weight)
            biases.append(bias)
        if self.identity is not None:
            weight, bias = fold_norm(identity_kernel(weights[0]), self.identity)
            weights.append(weight)
            biases.append(bias)
        return torch.stack(weights).sum(0), torch.stack(biases).sum(0)

    def deploy(self) -> None:
        """Replace the branches by one convolution; outputs in evaluation stay the same."""
        if self.fused is None:
            self.fused = conv_of(*self.folded(), self.stride, self.groups)
            self.branches, self.identity = None, None


def identity_kernel(like: Tensor) -> Tensor:
    """Weight (C, C / groups, side, side), of the shape of ``like``, that changes nothing."""
    kernel = torch.zeros_like(like)
    channels = torch.arange(len(like), device=like.device)
    middle = like.shape[2] // 2
    kernel[channels, channels % like.shape[1], middle, middle] = 1  # also right in each group
    return kernel


@torch.no_grad()
def conv_of(weight: Tensor, bias: Tensor, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution with these numbers that keeps the size of a map at stride 1."""
    side = weight.shape[2]
    conv = nn.Conv2d(weight.shape[1] * groups, len(weight), side, stride, side // 2, groups=groups,
                     device=weight.device, dtype=weight.dtype)
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv
