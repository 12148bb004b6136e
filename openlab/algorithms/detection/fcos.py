"""FCOS: dense detection without anchors.

Paper: FCOS: Fully Convolutional One-Stage Object Detection, https://arxiv.org/abs/1904.01355.

Idea: every place of a feature map predicts the distances from itself to the four sides of the
object it lies in. Levels share out the objects by size, places near the middle of an object are
responsible for it, and a "centerness" score tells how near the middle a place believes to be, so
that boxes predicted from the rim can be ranked down.

What differs from the paper: as in the authors' later code and in torchvision, only places within
1.5 strides of an object's centre are positive, the box loss is GIoU, and the centerness branch
shares the tower of the box branch. The pieces: suppression is in ``openlab/targets/nms.py``, the
towers are in ``dense.py``, the pyramid is ``openlab/necks/fpn.py``.

B batch · A places in all levels · N objects in an image · P positive places · K classes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from openlab.algorithms.detection.dense import (
    DenseDetector,
    flatten_levels,
    init_dense_head,
    level_sizes,
    make_tower,
)
from openlab.losses.focal import FocalLoss
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.targets.nms import DetectionLimits, dense_detections, truth_of
from openlab.zoo.key_map import KeyMap


class FCOSOutputs(NamedTuple):
    """Raw outputs for a batch.

    Attributes:
        logits: class scores of each place, (B, A, K).
        distances: left, top, right and bottom in strides, (B, A, 4), not negative.
        centerness: logits, (B, A).
        points: x, y of each place in pixels of the padded input, (A, 2).
        strides: of each place, (A,).
        level_sizes: number of places of each level, summing to A.
        image_size: (H, W) of the padded input.
    """

    logits: Tensor
    distances: Tensor
    centerness: Tensor
    points: Tensor
    strides: Tensor
    level_sizes: tuple[int, ...]
    image_size: tuple[int, int]


@MODELS.register_module()
class FCOSHead(nn.Module):
    """Two towers over every level of a pyramid, three outputs.

    Args:
        num_classes: K.
        in_channels: channels of every level; taken from the neck where left out.
        num_convs: convolutions of each tower before its last.
        strides: of each level, in which distances are measured.
        radius: places within so many strides of an object's centre are positive.
        range_factor: a level is responsible for objects whose farthest side is between half
            of this and this many strides away (8: 64 px at stride 8).
        cls_loss: sums over places and classes.
        limits: which candidates become detections.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^classification_head\.conv\.', 'classification_head.conv_flat.'),
                (r'^regression_head\.conv\.', 'regression_head.conv_flat.'),
                *(
                    (rf'^{old}_head\.conv_flat\.{3 * i + j}\.', f'{new}_tower.{i}.{j}.')
                    for old, new in (('classification', 'cls'), ('regression', 'box'))
                    for i in range(4)
                    for j in range(2)
                ),
                (r'^classification_head\.cls_logits', 'cls_out'),
                (r'^regression_head\.bbox_reg', 'box_out'),
                (r'^regression_head\.bbox_ctrness', 'centerness_out'),
            ],
            signature=[r'^regression_head\.bbox_ctrness'],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        num_convs: int = 4,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        radius: float = 1.5,
        range_factor: float = 8.0,
        cls_loss: nn.Module | None = None,
        limits: DetectionLimits | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('FCOSHead needs in_channels: nothing feeds it that has out_channels')
        self.num_classes, self.strides = num_classes, tuple(strides)
        self.radius, self.range_factor = radius, range_factor
        self.cls_loss = cls_loss or FocalLoss()
        self.limits = limits or DetectionLimits(score=0.2, nms_iou=0.6)
        groups = math.gcd(32, in_channels)
        self.cls_tower = make_tower(in_channels, num_convs, norm_groups=groups)
        self.box_tower = make_tower(in_channels, num_convs, norm_groups=groups)
        self.cls_out = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.box_out = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.centerness_out = nn.Conv2d(in_channels, 1, 3, padding=1)
        init_dense_head(self, self.cls_out)

    def forward(self, feats: tuple[Tensor, ...], image_size: tuple[int, int]) -> FCOSOutputs:
        """Score every place and measure its distances.

        Args:
            feats: the levels, finest first.
            image_size: (H, W) of the padded input.
        """
        if len(feats) != len(self.strides):
            raise ValueError(
                f'{len(feats)} feature maps came but head.strides names {len(self.strides)}; make '
                'the levels of the neck and head.strides agree'
            )
        logits, distances, centerness, points, strides = [], [], [], [], []
        for x, stride in zip(feats, self.strides):
            box_features = self.box_tower(x)
            logits.append(self.cls_out(self.cls_tower(x)))
            distances.append(F.relu_(self.box_out(box_features)))
            centerness.append(self.centerness_out(box_features))
            place = _places(x, image_size)
            points.append(place)
            strides.append(place.new_full((len(place),), float(stride)))
        return FCOSOutputs(
            flatten_levels(logits, self.num_classes), flatten_levels(distances, 4),
            flatten_levels(centerness, 1).squeeze(-1), torch.cat(points), torch.cat(strides),
            level_sizes(centerness, 1), image_size,
        )  # fmt: skip

    def loss(self, outputs: FCOSOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """Focal loss on all places; GIoU and centerness on the positive ones.

        All are divided by the number of positive places in the batch, which is ``num_items``.
        """
        truth = [truth_of(sample, self.num_classes) for sample in samples]
        matched = torch.stack([self.match(outputs, boxes) for boxes, _ in truth])
        image, place = (matched >= 0).nonzero(as_tuple=True)
        num_pos = max(len(place), 1)
        # Number the objects through, so that one index finds that of a place in any image.
        counts = matched.new_tensor([len(boxes) for boxes, _ in truth])
        found = matched[image, place] + (counts.cumsum(0) - counts)[image]
        goal_P = torch.cat([boxes for boxes, _ in truth])[found]
        label_P = torch.cat([labels for _, labels in truth])[found]

        target = torch.zeros_like(outputs.logits, dtype=torch.bool)
        target[image, place, label_P] = True
        points_P, strides_P = outputs.points[place], outputs.strides[place]
        predicted_P = boxes_from_distances(outputs.distances[image, place], points_P, strides_P)
        totals = {
            'loss_cls': self.cls_loss(outputs.logits, target),
            'loss_box': generalized_box_iou_loss(predicted_P, goal_P, reduction='sum'),
            'loss_centerness': F.binary_cross_entropy_with_logits(
                outputs.centerness[image, place], centerness_of(points_P, goal_P),
                reduction='sum'),
        }
        return {
            **{name: total / num_pos for name, total in totals.items()},
            'num_items': torch.full((), num_pos, device=matched.device),
        }

    def match(self, outputs: FCOSOutputs, boxes: Tensor) -> Tensor:
        """Which object each place is to find (section 3.2).

        Args:
            outputs: for its points, strides and levels.
            boxes: the objects, (N, 4).

        Returns:
            Index of the object or -1, (A,); of several, the one with the smallest area.
        """
        if len(boxes) == 0:
            return torch.full_like(outputs.strides, -1, dtype=torch.long)
        x_A1, y_A1 = outputs.points[:, None].unbind(-1)
        x0, y0, x1, y1 = boxes.unbind(-1)
        sides_AN4 = torch.stack([x_A1 - x0, y_A1 - y0, x1 - x_A1, y1 - y_A1], dim=-1)
        inside_AN = sides_AN4.amin(-1) > 0
        off_AN = torch.maximum(
            (x_A1 - (x0 + x1) / 2).abs(), (y_A1 - (y0 + y1) / 2).abs()
        )  # distance from the object's centre
        central_AN = off_AN < self.radius * outputs.strides[:, None]

        longest_AN = sides_AN4.amax(-1)
        upper_A = outputs.strides * self.range_factor
        lower_A = upper_A / 2
        # The finest level also takes everything smaller, the coarsest everything larger.
        lower_A[: outputs.level_sizes[0]] = 0
        upper_A[len(upper_A) - outputs.level_sizes[-1] :] = float('inf')
        fits_AN = (longest_AN > lower_A[:, None]) & (longest_AN < upper_A[:, None])

        area_N = (x1 - x0) * (y1 - y0)
        candidate_AN = inside_AN & central_AN & fits_AN
        area_AN = torch.where(candidate_AN, area_N, float('inf'))
        smallest, index = area_AN.min(dim=1)
        return torch.where(smallest.isfinite(), index, -1)

    def predict(self, outputs: FCOSOutputs, samples: list[DataSample]) -> list[DataSample]:
        """Best boxes of each image, in pixels of the network's input.

        A score is the geometric mean of class probability and centerness.
        """
        boxes = boxes_from_distances(outputs.distances, outputs.points, outputs.strides)
        probs = (outputs.logits.sigmoid() * outputs.centerness.sigmoid()[..., None]).sqrt()
        return [
            dense_detections(p, b, outputs.level_sizes, sample, outputs.image_size, self.limits)
            for p, b, sample in zip(probs, boxes, samples, strict=True)
        ]


@MODELS.register_module()
class FCOS(DenseDetector):
    """Backbone, pyramid and anchor-free head; arguments are those of ``DenseDetector``."""

    weights = (
        KeyMap(
            'torchvision',
            [(r'^backbone\.body\.', 'backbone.'), (r'^backbone\.fpn\.', 'neck.')],
            signature=[r'^backbone\.body\.', r'^head\.regression_head\.bbox_ctrness'],
        ),
    )


def boxes_from_distances(distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy from distances in strides (..., 4), points (..., 2), strides (...)."""
    pixels = distances * strides[..., None]
    return torch.cat([points - pixels[..., :2], points + pixels[..., 2:]], dim=-1)


def centerness_of(points: Tensor, boxes: Tensor) -> Tensor:
    """1 in the middle of a box, 0 at its rim (eq. 3); points (P, 2) and boxes (P, 4) to (P,)."""
    near, far = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(near, far) / torch.maximum(near, far)
    return ratio.prod(dim=-1).sqrt()


def _places(feat: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Input pixel of each place of a map, (H W, 2), rows first."""
    H, W = feat.shape[-2:]
    y = torch.arange(H, device=feat.device, dtype=torch.float32) * (image_size[0] // H)
    x = torch.arange(W, device=feat.device, dtype=torch.float32) * (image_size[1] // W)
    grid_y, grid_x = torch.meshgrid(y, x, indexing='ij')
    return torch.stack([grid_x, grid_y], dim=-1).view(-1, 2)
