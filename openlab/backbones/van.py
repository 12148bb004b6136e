"""VAN: attention made of a large convolution, which is taken apart into three small ones.

Guo et al., Visual Attention Network, https://arxiv.org/abs/2202.09741

A 21x21 convolution becomes a 5x5 filter of each channel, a 7x7 one with dilation 3, and a 1x1
convolution (figure 2); what they give multiplies the map itself. Stages are counted as in
``ResNet``, from 2 (stride 4) to 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net
from openlab.layers.norm import LayerNorm2d, make_norm
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_MLP_RATIOS = (8, 8, 4, 4)
_SIZES = {  # channels and blocks of the stages
    'b0': ((32, 64, 160, 256), (3, 3, 5, 2)),
    'b1': ((64, 128, 320, 512), (2, 2, 4, 2)),
    'b2': ((64, 128, 320, 512), (3, 3, 12, 3)),
    'b3': ((64, 128, 320, 512), (3, 5, 27, 3)),
    'b4': ((64, 128, 320, 512), (3, 6, 40, 3)),
    'b5': ((96, 192, 480, 768), (3, 3, 24, 3)),
    'b6': ((96, 192, 384, 768), (6, 6, 90, 6)),
}


class LargeKernelAttention(nn.Module):
    """Multiply a map by a wide look at it; around that, two 1x1 convolutions and a residual.

    Args:
        channels: channels of the input and of the output map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.act = nn.GELU()
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.wide = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one of the same shape."""
        y = self.act(self.proj_in(x))
        return x + self.proj_out(y * self.mix(self.wide(self.local(y))))


class ConvMLP(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, activate, project by 1x1.

    Args:
        channels: channels of the input and of the output map.
        hidden: channels inside.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one of the same shape."""
        return self.project(self.act(self.depthwise(self.expand(x))))


class VANBlock(nn.Module):
    """Attention and MLP, each normalised before and scaled behind, each with a residual.

    Args:
        channels: channels of the input and of the output map.
        hidden: channels inside the MLP.
        layer_scale: first value of the learned scales of the branches.
        drop_path: probability to leave a branch out in training.
        norm: see ``make_norm``.
    """

    def __init__(self, channels: int, hidden: int, layer_scale: float = 0.01,
                 drop_path: float = 0.0, norm: dict[str, Any] | None = None):
        super().__init__()
        self.norm1 = make_norm(channels, norm)
        self.attn = LargeKernelAttention(channels)
        self.scale1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.norm2 = make_norm(channels, norm)
        self.mlp = ConvMLP(channels, hidden)
        self.scale2 = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to one of the same shape."""
        x = x + self.drop_path(self.scale1[:, None, None] * self.attn(self.norm1(x)))
        return x + self.drop_path(self.scale2[:, None, None] * self.mlp(self.norm2(x)))


_BLOCK_KEYS = (
    *((rf'^norm{i + 1}\.', f'norms.{i}.') for i in range(4)),
    *((rf'^patch_embed{i + 1}\.norm\.', f'embeds.{i}.norm.') for i in range(4)),
    (r'\.layer_scale_([12])$', r'.scale\1'),
    (r'\.attn\.proj_1\.', '.attn.proj_in.'),
    (r'\.attn\.proj_2\.', '.attn.proj_out.'),
    (r'\.spatial_gating_unit\.conv1\.', '.mix.'),
    (r'\.mlp\.fc1\.', '.mlp.expand.'),
    (r'\.mlp\.fc2\.', '.mlp.project.'),
)
_OPENMMLAB_KEYS = (
    *_BLOCK_KEYS,
    *((rf'^blocks{i + 1}\.', f'stages.{i}.') for i in range(4)),
    *((rf'^patch_embed{i + 1}\.projection\.', f'embeds.{i}.conv.') for i in range(4)),
    (r'\.spatial_gating_unit\.DW_conv\.', '.local.'),
    (r'\.spatial_gating_unit\.DW_D_conv\.', '.wide.'),
    (r'\.mlp\.dwconv\.', '.mlp.depthwise.'),
)
_AUTHORS_KEYS = (
    *_BLOCK_KEYS,
    *((rf'^block{i + 1}\.', f'stages.{i}.') for i in range(4)),
    *((rf'^patch_embed{i + 1}\.proj\.', f'embeds.{i}.conv.') for i in range(4)),
    (r'\.spatial_gating_unit\.conv0\.', '.local.'),
    (r'\.spatial_gating_unit\.conv_spatial\.', '.wide.'),
    (r'\.mlp\.dwconv\.dwconv\.', '.mlp.depthwise.'),
    (r'^head\.', '../head.fc.'),
)


@MODELS.register_module()
class VAN(nn.Module):
    """Visual attention network, B0 to B6.

    Args:
        size: ``'b0'`` to ``'b6'``: sets ``channels`` and ``num_blocks`` where they are left out.
        channels: channels of each stage.
        num_blocks: blocks of each stage.
        mlp_ratios: channels inside the MLP over those of the stage, for each stage.
        in_channels: channels of the input.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        layer_scale: first value of the learned scales of the branches.
        norm: see ``make_norm``.
        out_norm: what normalises the map of each stage, see ``make_norm``; by default
            ``LayerNorm2d``. The authors' own weights want ``eps=1e-6``.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('openmmlab', _OPENMMLAB_KEYS,
               signature=(r'^blocks1\.0\.attn\.spatial_gating_unit\.DW_conv\.',)),
        KeyMap('authors', _AUTHORS_KEYS,
               signature=(r'^block1\.0\.attn\.spatial_gating_unit\.conv0\.',)),
    )

    def __init__(
        self,
        size: str = 'b0',
        channels: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        mlp_ratios: Sequence[float] = _MLP_RATIOS,
        in_channels: int = 3,
        drop_path: float = 0.0,
        layer_scale: float = 0.01,
        norm: dict[str, Any] | None = None,
        out_norm: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'VAN has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'channels and num_blocks')
        channels = tuple(channels or _SIZES[size][0])
        num_blocks = tuple(num_blocks or _SIZES[size][1])
        if not len(channels) == len(num_blocks) <= len(mlp_ratios):
            raise ValueError('VAN needs channels, num_blocks and mlp_ratios of each stage, not '
                             f'{channels}, {num_blocks} and {tuple(mlp_ratios)}')
        self.out_stages = check_out_stages(out_stages, first=2, last=len(channels) + 1)
        num_blocks = num_blocks[: self.out_stages[-1] - 1]
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.embeds, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = in_channels
        for i, (width, num, ratio) in enumerate(zip(channels, num_blocks, mlp_ratios)):
            kernel, stride = (3, 2) if i else (7, 4)
            self.embeds.append(ConvNormAct(before, width, kernel, stride, norm=norm, bias=True,
                                           with_act=False))
            self.stages.append(nn.Sequential(*(
                VANBlock(width, int(width * ratio), layer_scale, next(probs), norm)
                for _ in range(num))))
            self.norms.append(make_norm(width, out_norm or {'type': LayerNorm2d}))
            before = width
        self.out_channels = tuple(channels[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_conv_net(self)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return {name for name, _ in self.named_parameters() if name.endswith(('scale1', 'scale2'))}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        outs = []
        parts = zip(self.embeds, self.stages, self.norms)
        for stage, (embed, blocks, norm) in enumerate(parts, start=2):
            x = norm(blocks(embed(x)))
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)
