"""What dense detectors share: a head that looks at every place of a feature pyramid.

B batch · S shapes at one place · H, W size of a map
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.structures.data_sample import DataSample


class DenseDetector(Algorithm):
    """Backbone, pyramid and dense head in a row.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to the levels of a pyramid.
        head: levels and image size to raw outputs; has ``loss`` and ``predict``.
        preprocessor: see ``Algorithm``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.backbone, self.neck = backbone, neck
        self.head: Any = head

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> NamedTuple:
        """Images (B, 3, H, W) to the head's raw outputs."""
        return self.outputs_of_maps(self.backbone(inputs), inputs)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> NamedTuple:
        """Maps of the backbone to the head's raw outputs."""
        height, width = inputs.shape[-2:]
        return self.head(self.neck(feats), (height, width))

    def loss(self, outputs: NamedTuple, samples: list[DataSample]) -> dict[str, Tensor]:
        """The head's losses."""
        return self.head.loss(outputs, samples)

    def predict(self, outputs: NamedTuple, samples: list[DataSample]) -> list[DataSample]:
        """The head's detections."""
        return self.head.predict(outputs, samples)


def init_dense_head(head: nn.Module, cls_out: nn.Conv2d) -> None:
    """Draw small weights, and let every place begin with probability 0.01 of an object.

    Else the empty places would swamp the first steps (RetinaNet, section 4.1).
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if cls_out.bias is not None:
        nn.init.constant_(cls_out.bias, -math.log((1 - 0.01) / 0.01))


def make_tower(channels: int, num_convs: int, norm_groups: int | None = None,
               bias: bool = True) -> nn.Sequential:
    """3x3 convolutions with ReLU, and group norm between where ``norm_groups`` is given."""
    tower = nn.Sequential()
    for _ in range(num_convs):
        layers: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1, bias=bias)]
        if norm_groups is not None:
            layers.append(nn.GroupNorm(norm_groups, channels))
        tower.append(nn.Sequential(*layers, nn.ReLU()))
    return tower


def flatten_levels(maps: Sequence[Tensor], size: int) -> Tensor:
    """Maps (B, S size, H, W) of all levels as (B, A, size): place by place, as anchors are ordered.

    A is the sum of H W S over the levels. Formats of half precision become float32: in bfloat16 a
    box would move by whole pixels.
    """
    rows = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
    if rows.dtype in (torch.bfloat16, torch.float16):
        rows = rows.float()
    return rows.view(len(rows), -1, size)


def level_sizes(maps: Sequence[Tensor], size: int) -> tuple[int, ...]:
    """How many places or anchors each level adds to ``flatten_levels``."""
    return tuple(x[0].numel() // size for x in maps)
