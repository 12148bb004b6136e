"""RepVGG: trained with three branches, used as one plain stack of 3x3 convolutions.

Ding et al., https://arxiv.org/abs/2101.03697

A block adds a 3x3 convolution, a 1x1 convolution and, where shapes allow, the identity, each with
its own normalisation. All three are linear, so that after training ``deploy()`` folds them into
one 3x3 convolution with a bias (section 3.3). Stages are counted by their stride: the stem is
stage 1, the last stage is 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct, fold_norm
from openlab.layers.init import init_conv_net
from openlab.layers.reparam import conv_of, identity_kernel
from openlab.layers.se import SqueezeExcite
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_A, _B, _D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)
_SIZES: dict[str, tuple[tuple[int, ...], float, float, int]] = {
    # blocks of each stage, width, width of the last stage, groups of every second block
    'a0': (_A, 0.75, 2.5, 1),
    'a1': (_A, 1.0, 2.5, 1),
    'a2': (_A, 1.5, 2.75, 1),
    'b0': (_B, 1.0, 2.5, 1),
    'b1': (_B, 2.0, 4.0, 1),
    'b1g2': (_B, 2.0, 4.0, 2),
    'b1g4': (_B, 2.0, 4.0, 4),
    'b2': (_B, 2.5, 5.0, 1),
    'b2g4': (_B, 2.5, 5.0, 4),
    'b3': (_B, 3.0, 5.0, 1),
    'b3g4': (_B, 3.0, 5.0, 4),
    'd2se': (_D, 2.5, 5.0, 1),
}


class RepVGGBlock(nn.Module):
    """Three parallel branches, or the one convolution that they amount to.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        stride: step of the convolutions.
        groups: groups of the convolutions.
        with_se: squeeze and excitation to a sixteenth before the activation.
        deployed: build the one convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1,
                 with_se: bool = False, deployed: bool = False):
        super().__init__()
        self.stride, self.groups = stride, groups
        self.fused: nn.Conv2d | None = None
        self.branch3: ConvNormAct | None = None
        self.branch1: ConvNormAct | None = None
        self.identity: nn.BatchNorm2d | None = None
        if deployed:
            self.fused = nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups)
        else:
            self.branch3 = ConvNormAct(in_channels, out_channels, 3, stride, groups=groups,
                                       with_act=False)
            self.branch1 = ConvNormAct(in_channels, out_channels, 1, stride, groups=groups,
                                       with_act=False)
            if in_channels == out_channels and stride == 1:
                self.identity = nn.BatchNorm2d(in_channels)
        self.se: nn.Module = nn.Identity()
        if with_se:
            self.se = SqueezeExcite(out_channels, max(out_channels // 16, 1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        if self.fused is not None:
            return self.act(self.se(self.fused(x)))
        assert self.branch3 is not None and self.branch1 is not None
        # In place: normalisations look at their inputs again in the backward pass, not at these.
        y = self.branch1(x).add_(self.branch3(x))
        if self.identity is not None:
            y.add_(self.identity(x))
        return self.act(self.se(y))

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold the branches, with the statistics they have now, into one convolution."""
        if self.branch3 is None or self.branch1 is None:
            return
        weight, bias = fold_norm(self.branch3.conv.weight, self.branch3.norm)
        weight1, bias1 = fold_norm(F.pad(self.branch1.conv.weight, (1, 1, 1, 1)),
                                   self.branch1.norm)
        weight, bias = weight + weight1, bias + bias1
        if self.identity is not None:
            weight0, bias0 = fold_norm(identity_kernel(weight), self.identity)
            weight, bias = weight + weight0, bias + bias0
        self.fused = conv_of(weight, bias, self.stride, self.groups)
        self.branch3, self.branch1, self.identity = None, None, None


_TIMM_KEYS = (
    (r'\.conv_kxk\.bn\.', '.branch3.norm.'),
    (r'\.conv_kxk\.', '.branch3.'),
    (r'\.conv_1x1\.bn\.', '.branch1.norm.'),
    (r'\.conv_1x1\.', '.branch1.'),
    (r'\.attn\.fc1\.', '.se.reduce.'),
    (r'\.attn\.fc2\.', '.se.expand.'),
    (r'\.reparam_conv\.', '.fused.'),
    (r'^head\.fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'\.branch_3x3\.', '.branch3.'),
    (r'\.branch_1x1\.', '.branch1.'),
    (r'\.branch_norm\.', '.identity.'),
    (r'\.branch_reparam\.', '.fused.'),
    (r'\.se_layer\.conv1\.conv\.', '.se.reduce.'),
    (r'\.se_layer\.conv2\.conv\.', '.se.expand.'),
    *((rf'^stage_{i + 1}\.', f'stages.{i}.') for i in range(4)),
)


@MODELS.register_module()
class RepVGG(nn.Module):
    """RepVGG of any published size.

    Args:
        size: ``'a0'`` to ``'a2'``, ``'b0'`` to ``'b3'``, ``'b1g2'``, ``'b1g4'``, ``'b2g4'``,
            ``'b3g4'`` or ``'d2se'`` (with squeeze and excitation).
        num_blocks: blocks of each stage; by default those of ``size``.
        in_channels: channels of the input.
        width: a further factor of all channel numbers.
        deployed: build the folded form, for folded weights.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, signature=(r'^stem\.(conv_kxk|reparam_conv)\.',)),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, signature=(r'^stem\.branch_(3x3|reparam)\.',)),
    )

    def __init__(
        self,
        size: str = 'a0',
        num_blocks: Sequence[int] | None = None,
        in_channels: int = 3,
        width: float = 1.0,
        deployed: bool = False,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'RepVGG has sizes {list(_SIZES)}, not {size!r}')
        default, first, last, groups = _SIZES[size]
        num_blocks = tuple(num_blocks or default)
        self.out_stages = check_out_stages(out_stages, first=2, last=5)
        scales = (64 * first, 128 * first, 256 * first, 512 * last)
        widths = [int(scale * width) for scale in scales]
        with_se = size.endswith('se')
        channels = int(min(64, 64 * first) * width)
        self.stem = RepVGGBlock(in_channels, channels, 2, 1, with_se, deployed)
        self.stages = nn.ModuleList()
        index = 0
        for out, num in list(zip(widths, num_blocks))[: self.out_stages[-1] - 1]:
            stage = nn.Sequential()
            for i in range(num):
                index += 1
                stage.append(RepVGGBlock(channels, out, 2 if i == 0 else 1,
                                         groups if index % 2 == 0 else 1, with_se, deployed))
                channels = out
            self.stages.append(stage)
        self.out_channels = tuple(widths[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)

    def deploy(self) -> None:
        """Fold the branches of all blocks, in place; outputs in evaluation stay the same."""
        for part in self.modules():
            if isinstance(part, RepVGGBlock):
                part.deploy()
