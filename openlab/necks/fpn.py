"""Feature pyramid: every level as rich in meaning as the deepest one.

Paper: Feature Pyramid Networks for Object Detection, https://arxiv.org/abs/1612.03144.

B batch · L levels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.conv import make_conv
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class FPN(nn.Module):
    """Add each coarser map, enlarged, to the next finer one; smooth every sum.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        out_channels: channels of every map that comes out.
        extra: further, coarser levels: ``'pool'`` takes every second pixel of the last (Faster
            R-CNN); ``'p6p7'`` adds two by strided convolutions (RetinaNet, FCOS).
        extra_from: whether P6 of ``'p6p7'`` is made from the backbone's last map (``'c5'``, as
            RetinaNet's paper has it) or from the pyramid's (``'p5'``).
        norm: normalises after each convolution of the pyramid, see ``make_norm``; by default
            nothing does.

    Attributes:
        out_channels: one number for each level.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^inner_blocks\.(\d+)\.0\.', r'lateral.\1.conv.'),
                (r'^inner_blocks\.(\d+)\.1\.', r'lateral.\1.norm.'),
                (r'^layer_blocks\.(\d+)\.0\.', r'smooth.\1.conv.'),
                (r'^layer_blocks\.(\d+)\.1\.', r'smooth.\1.norm.'),
                (r'^extra_blocks\.', ''),
            ],
            signature=[r'^inner_blocks\.0\.1\.'],
        ),
        KeyMap(
            'torchvision',
            [
                (r'^inner_blocks\.(\d+)\.(?:0\.)?', r'lateral.\1.'),  # older files lack the 0
                (r'^layer_blocks\.(\d+)\.(?:0\.)?', r'smooth.\1.'),
                (r'^extra_blocks\.', ''),
            ],
            signature=[r'^inner_blocks\.'],
        ),
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        extra: Literal['pool', 'p6p7'] | None = None,
        extra_from: Literal['c5', 'p5'] = 'c5',
        norm: dict[str, Any] | None = None,
    ):
        super().__init__()
        if extra not in (None, 'pool', 'p6p7'):
            raise ValueError(f"FPN extra must be 'pool', 'p6p7' or None, not {extra!r}")
        self.extra, self.extra_from = extra, extra_from
        self.lateral = nn.ModuleList(make_conv(c, out_channels, 1, norm) for c in in_channels)
        self.smooth = nn.ModuleList(
            make_conv(out_channels, out_channels, 3, norm) for _ in in_channels
        )
        num_levels = len(in_channels) + {None: 0, 'pool': 1, 'p6p7': 2}[extra]
        if extra == 'p6p7':
            source = in_channels[-1] if extra_from == 'c5' else out_channels
            self.p6 = nn.Conv2d(source, out_channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        self.out_channels: tuple[int, ...] = (out_channels,) * num_levels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, finest first, to L maps of ``out_channels``.

        Raises:
            ValueError: if their number is not that of ``in_channels``.
        """
        if len(feats) != len(self.lateral):
            raise ValueError(
                f'FPN got {len(feats)} maps but was built for {len(self.lateral)}; set '
                'model.backbone.out_stages to match model.neck.in_channels'
            )
        laterals = [layer(feat) for layer, feat in zip(self.lateral, feats)]
        for finer in range(len(laterals) - 2, -1, -1):
            size = laterals[finer].shape[-2:]
            coarse = F.interpolate(laterals[finer + 1], size=size, mode='nearest')
            laterals[finer].add_(coarse)
        outs = [layer(x) for layer, x in zip(self.smooth, laterals)]
        if self.extra == 'pool':
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        elif self.extra == 'p6p7':
            outs.append(_in_full_precision(
                self.p6, feats[-1] if self.extra_from == 'c5' else outs[-1]))
            outs.append(_in_full_precision(self.p7, F.relu(outs[-1])))
        return tuple(outs)


def _in_full_precision(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution out of the reach of autocast.

    In bfloat16 the gradient of a kernel with stride 2 may be NaN on CPUs where the map is a single
    place, as P6 of a small image is; these maps are too small to be worth the risk.
    """
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return conv(x)
    with torch.autocast(kind, enabled=False):
        return conv(x.to(conv.weight.dtype))
