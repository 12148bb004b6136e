"""Features of one size from regions of any size.

R regions · C channels · H, W size of a map
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align


class PyramidRoIAlign(nn.Module):
    """Sample every region from the level of a pyramid that shows it at a handy size.

    Papers: Mask R-CNN, https://arxiv.org/abs/1703.06870 (section 3); the choice of level: Feature
    Pyramid Networks, https://arxiv.org/abs/1612.03144 (eq. 1).

    Args:
        size: height and width of what comes out.
        num_levels: so many levels of the pyramid are used, from the finest on.
        samples: samples taken along each side of a cell.
        canonical_size: a region of this side (in pixels) is taken from stride 16; one half as
            large from stride 8, and so on.
    """

    def __init__(
        self, size: int, num_levels: int = 4, samples: int = 2, canonical_size: int = 224
    ):
        super().__init__()
        self.size, self.num_levels = size, num_levels
        self.samples, self.canonical_size = samples, canonical_size

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, image_size: tuple[int, int]
    ) -> Tensor:
        """Cut out every region.

        Args:
            feats: levels of the pyramid, finest first, each (B, C, H, W).
            rois: index of the image, then xyxy in pixels of the padded input, (R, 5).
            image_size: (H, W) of the padded input.

        Returns:
            (R, C, size, size).
        """
        feats = feats[: self.num_levels]
        # Maps of odd inputs are rounded up; their step is still a power of two.
        exponents = [round(math.log2(image_size[0] / x.shape[-2])) for x in feats]
        if len(feats) == 1:
            return self._pool(feats[0], rois, exponents[0])
        side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=0).sqrt()
        # The small number keeps a region of just the canonical size from falling by rounding.
        wanted = (4 + (side / self.canonical_size).log2() + 1e-6).floor()
        wanted = wanted.clamp(exponents[0], exponents[-1])
        if torch.compiler.is_compiling() or rois.is_meta:
            # There shapes must not depend on data: each level pools all regions.
            out = self._pool(feats[0], rois, exponents[0])
            for x, exponent in zip(feats[1:], exponents[1:]):
                is_here = (wanted == exponent)[:, None, None, None]
                out = torch.where(is_here, self._pool(x, rois, exponent).to(out.dtype), out)
            return out
        # Level by level, then back into the order of the regions in one go.
        members = [(wanted == exponent).nonzero()[:, 0] for exponent in exponents]
        pooled = [self._pool(x, rois[index], exponent)
                  for x, index, exponent in zip(feats, members, exponents)]
        return torch.cat(pooled).index_select(0, torch.cat(members).argsort())

    def _pool(self, x: Tensor, rois: Tensor, exponent: int) -> Tensor:
        return roi_align(x, rois.to(x.dtype), self.size, 2.0**-exponent, self.samples)


def to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of each image, (N, 4), as one tensor with the image's index in front, (R, 5)."""
    index = [b.new_full((len(b), 1), float(i)) for i, b in enumerate(boxes)]
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(index, boxes)])
