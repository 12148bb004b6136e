"""RetinaNet: dense detection with anchors and focal loss.

Paper: Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002.

Idea: two small convolutional towers, shared by all levels of a feature pyramid, look at every
anchor: one scores classes, the other moves the box. There are vastly more empty anchors than
objects; focal loss keeps the easy ones from drowning the rest.

What differs from the paper: as in torchvision, losses are normalised by the positive anchors of
each image and then averaged over images. The pieces: anchors, matching, box offsets and
suppression are in ``openlab/targets``; the pyramid is ``openlab/necks/fpn.py``.

B batch · A anchors in all levels · S shapes at one place · N objects in an image · K classes
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, generalized_box_iou_loss

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
from openlab.targets.anchors import AnchorGenerator
from openlab.targets.box_coder import decode_boxes, encode_boxes
from openlab.targets.matching import IGNORED, IoUAssigner
from openlab.targets.nms import DetectionLimits, dense_candidates, detections, truth_of
from openlab.zoo.key_map import KeyMap


class RetinaOutputs(NamedTuple):
    """Raw outputs for a batch.

    Attributes:
        logits: class scores of each anchor, (B, A, K).
        deltas: offsets from each anchor, (B, A, 4).
        anchors: xyxy in pixels of the padded input, (A, 4).
        level_sizes: number of anchors of each level, summing to A.
        image_size: (H, W) of the padded input.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    level_sizes: tuple[int, ...]
    image_size: tuple[int, int]


@MODELS.register_module()
class RetinaHead(nn.Module):
    """Two towers over every level of a pyramid.

    Args:
        num_classes: K.
        in_channels: channels of every level; taken from the neck where left out.
        num_convs: convolutions of each tower before its last.
        norm_groups: groups of the group norms after them, which then have no bias; by default
            there are none.
        anchors: generates the anchors; by default the paper's for P3 to P7.
        assigner: decides which anchor has to find which object.
        cls_loss: of logits, targets (both (B, A, K)) and the weight of each anchor, (B, A), the
            weighted sum.
        box_loss: ``'l1'`` compares offsets from the anchor, ``'giou'`` the boxes
            (https://arxiv.org/abs/1902.09630).
        limits: which candidates become detections.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^classification_head\.conv\.(\d)\.([01])\.', r'cls_tower.\1.\2.'),
                (r'^regression_head\.conv\.(\d)\.([01])\.', r'box_tower.\1.\2.'),
                (r'^classification_head\.cls_logits', 'cls_out'),
                (r'^regression_head\.bbox_reg', 'box_out'),
            ],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        num_convs: int = 4,
        norm_groups: int | None = None,
        anchors: nn.Module | None = None,
        assigner: nn.Module | None = None,
        cls_loss: nn.Module | None = None,
        box_loss: Literal['l1', 'giou'] = 'l1',
        limits: DetectionLimits | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('RetinaHead needs in_channels: nothing feeds it that has out_channels')
        if box_loss not in ('l1', 'giou'):
            raise ValueError(f"box_loss must be 'l1' or 'giou', not {box_loss!r}")
        self.num_classes, self.box_loss = num_classes, box_loss
        self.anchors: Any
        self.anchors = anchors or AnchorGenerator(
            [[size * 2 ** (i / 3) for i in range(3)] for size in (32, 64, 128, 256, 512)]
        )
        self.assigner = assigner or IoUAssigner(foreground=0.5, background=0.4, keep_best=True)
        self.cls_loss = cls_loss or FocalLoss()
        self.limits = limits or DetectionLimits(score=0.05, nms_iou=0.5)
        self.cls_tower, self.box_tower = (
            make_tower(in_channels, num_convs, norm_groups, bias=norm_groups is None)
            for _ in range(2))
        num_shapes: int = self.anchors.num_shapes
        self.cls_out = nn.Conv2d(in_channels, num_shapes * num_classes, 3, padding=1)
        self.box_out = nn.Conv2d(in_channels, num_shapes * 4, 3, padding=1)
        init_dense_head(self, self.cls_out)

    def forward(self, feats: tuple[Tensor, ...], image_size: tuple[int, int]) -> RetinaOutputs:
        """Score and move every anchor.

        Args:
            feats: the levels, finest first.
            image_size: (H, W) of the padded input.
        """
        logits = [self.cls_out(self.cls_tower(x)) for x in feats]
        deltas = [self.box_out(self.box_tower(x)) for x in feats]
        return RetinaOutputs(
            logits=flatten_levels(logits, self.num_classes),
            deltas=flatten_levels(deltas, 4),
            anchors=torch.cat(self.anchors(feats, image_size)),
            level_sizes=level_sizes(logits, self.num_classes),
            image_size=image_size,
        )

    def loss(self, outputs: RetinaOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """Focal loss on all anchors that are not ignored, ``box_loss`` on the positive ones.

        Each is normalised by the number of positive anchors of its image.
        """
        target = torch.zeros_like(outputs.logits, dtype=torch.bool)
        weight = outputs.logits.new_zeros(target.shape[:2])
        box_losses = []
        for image, sample in enumerate(samples):
            boxes, labels = truth_of(sample, self.num_classes)
            matched = self.assigner(box_iou(boxes, outputs.anchors))
            positive = (matched >= 0).nonzero()[:, 0]
            found = matched[positive]
            target[image, positive, labels[found]] = True
            weight[image] = (matched != IGNORED) / max(len(positive), 1)
            deltas, anchors = outputs.deltas[image, positive], outputs.anchors[positive]
            if self.box_loss == 'giou':
                moved = decode_boxes(deltas, anchors)
                distance = generalized_box_iou_loss(moved, boxes[found], reduction='sum')
            else:
                distance = (deltas - encode_boxes(boxes[found], anchors)).abs().sum()
            box_losses.append(distance / max(len(positive), 1))
        return {
            'loss_cls': self.cls_loss(outputs.logits, target, weight) / len(samples),
            'loss_box': torch.stack(box_losses).mean(),
        }

    def predict(self, outputs: RetinaOutputs, samples: list[DataSample]) -> list[DataSample]:
        """Best boxes of each image, in pixels of the network's input."""
        predictions = []
        limits = replace(self.limits, score=_logit(self.limits.score))
        for logits, deltas, sample in zip(outputs.logits, outputs.deltas, samples, strict=True):
            # Only what is over the limit needs a probability, and a box.
            scores, place, label = dense_candidates(logits, outputs.level_sizes, limits)
            boxes = decode_boxes(deltas[place], outputs.anchors[place])
            predictions.append(detections(
                boxes, scores.sigmoid(), label, sample, outputs.image_size, self.limits))
        return predictions


@MODELS.register_module()
class RetinaNet(DenseDetector):
    """Backbone, pyramid and anchor-based head; arguments are those of ``DenseDetector``."""

    weights = (
        KeyMap(
            'torchvision',
            [(r'^backbone\.body\.', 'backbone.'), (r'^backbone\.fpn\.', 'neck.')],
            signature=[r'^backbone\.body\.', r'^head\.classification_head\.'],
        ),
    )


def _logit(prob: float) -> float:
    """What the sigmoid turns into ``prob``."""
    return math.log(prob / (1 - prob)) if 0 < prob < 1 else math.copysign(math.inf, prob - 0.5)
