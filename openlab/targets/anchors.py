"""Boxes that a detector starts from: some shapes, repeated at every place of every level.

A anchors in all levels · S shapes at one place · H, W size of a feature map
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
class AnchorGenerator(nn.Module):
    """Anchors of several sizes and aspect ratios.

    Args:
        sizes: for each level, the square roots of the areas, in input pixels.
        ratios: heights over widths, the same at every level.
        round_shapes: round half widths and heights to whole pixels, as Faster R-CNN's code does.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_shapes: bool = True,
    ):
        super().__init__()
        self.sizes, self.ratios = [tuple(s) for s in sizes], tuple(ratios)
        self.round_shapes = round_shapes
        self.num_shapes = len(self.sizes[0]) * len(self.ratios)
        if any(len(s) != len(self.sizes[0]) for s in self.sizes):
            raise ValueError(f'every level needs as many sizes as the others, got {self.sizes}')

    def shapes(self, level: int) -> Tensor:
        """The shapes of one level around the origin, ratio by ratio, (S, 4) xyxy."""
        boxes = []
        for ratio in self.ratios:
            stretch = math.sqrt(ratio)
            boxes += [(size / stretch / 2, size * stretch / 2) for size in self.sizes[level]]
        half = torch.tensor(boxes)
        half = half.round() if self.round_shapes else half
        return torch.cat([-half, half], dim=1)

    def forward(self, feats: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Anchors of each level, (H W S, 4) xyxy in input pixels, rows first, then columns.

        Args:
            feats: one map for each level; only their sizes matter.
            image_size: (H, W) of the padded input.

        Raises:
            ValueError: if there are more or fewer maps than levels.
        """
        if len(feats) != len(self.sizes):
            raise ValueError(
                f'{len(feats)} feature maps came but sizes are given for {len(self.sizes)} levels; '
                'make head.anchors.sizes and the levels of the neck agree'
            )
        levels = []
        for level, feat in enumerate(feats):
            H, W = feat.shape[-2:]
            device = feat.device
            y = torch.arange(H, device=device, dtype=torch.float32) * (image_size[0] // H)
            x = torch.arange(W, device=device, dtype=torch.float32) * (image_size[1] // W)
            grid_y, grid_x = torch.meshgrid(y, x, indexing='ij')
            place = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).view(-1, 1, 4)
            levels.append((place + self.shapes(level).to(device)).view(-1, 4))
        return levels
