"""Any backbone for detection and segmentation: images of any size, maps of the strides wanted.

Some networks were made to classify: a plain transformer gives maps of one stride, patches of 14
pixels fit no pyramid, an MLP-Mixer takes images of one size only, others take multiples of 32.
``DenseBackbone`` stands around such a network and evens that out, so that heads need not know:

* images are padded on the right and below, and maps cut to what shows the image;
* a step that is no power of two becomes one: for patches of 14 pixels the image is shrunk to
  14/16 of its size, so that a step spans 16 of its pixels;
* a network of one image size sees windows of that size, side by side;
* a neck, such as ``SimplePyramid``, makes the strides that are missing.

B batch · C channels · H, W size of the image · h, w size of a map · S side of a window
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
class DenseBackbone(nn.Module):
    """A network that gives maps, with what it lacks for dense tasks.

    ``openlab config swap`` writes it around backbones that need it.

    Args:
        backbone: image to a tuple of maps; has ``out_channels`` and ``strides``.
        neck: maps to maps of other strides; has ``out_channels`` and ``strides``.
        divisor: images are padded to multiples of it.
        window: side of the only images that the network takes, in pixels; ``None`` if it takes
            any multiple of ``divisor``.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        divisor: int = 32,
        window: int | None = None,
    ):
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.divisor, self.window = divisor, window
        inner: Any = backbone
        step = inner.strides[0]
        self.scale = step / 2**round(math.log2(step))
        even = [round(s / self.scale) for s in inner.strides]
        if window is not None and self.scale != 1:
            raise ValueError(f'a backbone that takes windows of {window} px must have strides that '
                             f'are powers of two, not {tuple(inner.strides)}')
        last: Any = neck or backbone
        self.out_channels: tuple[int, ...] = tuple(last.out_channels)
        self.strides: tuple[int, ...] = tuple(even if neck is None else last.strides)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps, finest first, each (B, C, H / stride, W / stride), from images x (B, 3, H, W).

        Sizes are rounded up where the stride does not divide them.
        """
        H, W = x.shape[-2:]
        divisor = self.window or self.divisor
        x = F.pad(x, (0, -W % divisor, 0, -H % divisor))
        if self.scale != 1:
            size = [round(side * self.scale) for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode='bilinear', antialias=True)
        maps = self.backbone(x) if self.window is None else self._by_windows(x, self.window)
        if self.neck is not None:
            maps = self.neck(maps)
        return tuple(m[..., : math.ceil(H / s), : math.ceil(W / s)]
                     for m, s in zip(maps, self.strides, strict=True))

    def _by_windows(self, x: Tensor, side: int) -> list[Tensor]:
        """Maps of x (B, C, H, W), whose H and W are multiples of ``side``, window by window."""
        rows, columns = x.shape[-2] // side, x.shape[-1] // side
        tiles = x.unflatten(-1, (columns, side)).unflatten(-3, (rows, side))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # (B rows columns, C, S, S)
        maps = []
        for y in self.backbone(tiles):
            y = y.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
            maps.append(y.flatten(4, 5).flatten(2, 3))
        return maps

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the network inside wants kept out of weight decay."""
        names: set[str] = getattr(self.backbone, 'no_weight_decay', set)()
        return {f'backbone.{name}' for name in names}
