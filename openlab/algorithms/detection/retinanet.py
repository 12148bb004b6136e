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

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from openlab.algorithms.detection.dense import (
    DenseDetector,
    flatten_level,
    init_dense_head,
    make_tower,
)
from openlab.losses.focal import FocalLoss
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.targets.anchors import AnchorGenerator
from openlab.targets.box_coder import decode_boxes, encode_boxes
from openlab.targets.matching import IGNORED, IoUAssigner
from openlab.targets.nms import DetectionLimits, dense_detections, truth_of
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
        anchors: generates the anchors; by default the paper's for P3 to P7.
        assigner: decides which anchor has to find which object.
        cls_loss: sums over anchors and classes.
        limits: which candidates become detections.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^classification_head\.conv\.(\d)\.0\.', r'cls_tower.\1.0.'),
                (r'^regression_head\.conv\.(\d)\.0\.', r'box_tower.\1.0.'),
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
        anchors: nn.Module | None = None,
        assigner: nn.Module | None = None,
        cls_loss: nn.Module | None = None,
        limits: DetectionLimits | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('RetinaHead needs in_channels: nothing feeds it that has out_channels')
        self.num_classes = num_classes
        self.anchors: Any
        self.anchors = anchors or AnchorGenerator(
            [[size * 2 ** (i / 3) for i in range(3)] for size in (32, 64, 128, 256, 512)]
        )
        self.assigner = assigner or IoUAssigner(foreground=0.5, background=0.4, keep_best=True)
        self.cls_loss = cls_loss or FocalLoss()
        self.limits = limits or DetectionLimits(score=0.05, nms_iou=0.5)
        self.cls_tower = make_tower(in_channels, num_convs)
        self.box_tower = make_tower(in_channels, num_convs)
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
        logits = [flatten_level(self.cls_out(self.cls_tower(x)), self.num_classes) for x in feats]
        deltas = [flatten_level(self.box_out(self.box_tower(x)), 4) for x in feats]
        return RetinaOutputs(
            logits=torch.cat(logits, dim=1),
            deltas=torch.cat(deltas, dim=1),
            anchors=torch.cat(self.anchors(feats, image_size)),
            level_sizes=tuple(x.shape[1] for x in logits),
            image_size=image_size,
        )

    def loss(self, outputs: RetinaOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """Focal loss on all anchors that are not ignored, L1 on the offsets of the positive ones.

        Each is normalised by the number of positive anchors of its image.
        """
        cls_losses, box_losses = [], []
        for logits, deltas, sample in zip(outputs.logits, outputs.deltas, samples, strict=True):
            boxes, labels = truth_of(sample, self.num_classes)
            matched = self.assigner(box_iou(boxes, outputs.anchors))
            is_pos, counts = matched >= 0, matched != IGNORED
            num_pos = is_pos.sum().clamp(min=1)
            target = torch.zeros_like(logits)
            target[is_pos, labels[matched[is_pos]]] = 1
            cls_losses.append(self.cls_loss(logits[counts], target[counts]) / num_pos)
            goal = encode_boxes(boxes[matched[is_pos]], outputs.anchors[is_pos])
            box_losses.append((deltas[is_pos] - goal).abs().sum() / num_pos)
        return {
            'loss_cls': torch.stack(cls_losses).mean(),
            'loss_box': torch.stack(box_losses).mean(),
        }

    def predict(self, outputs: RetinaOutputs, samples: list[DataSample]) -> list[DataSample]:
        """Best boxes of each image, in pixels of the network's input."""
        return [
            dense_detections(
                logits.sigmoid(), decode_boxes(deltas, outputs.anchors), outputs.level_sizes,
                sample, outputs.image_size, self.limits,
            )
            for logits, deltas, sample in zip(
                outputs.logits, outputs.deltas, samples, strict=True)
        ]  # fmt: skip


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
