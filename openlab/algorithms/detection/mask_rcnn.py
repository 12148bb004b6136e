"""Mask R-CNN: Faster R-CNN that also draws each object's outline.

Paper: Mask R-CNN, https://arxiv.org/abs/1703.06870.

Idea: a third small network looks at regions, a convolutional one, and says for every cell of a
28 x 28 grid over the region whether it belongs to the object. It answers for each class
separately; which of the answers counts is the box head's affair, so that classes need not
compete for a cell.

What differs from the paper: nothing known; truth is sampled onto the grid by RoI align, as in
torchvision. Boxes and proposals are ``faster_rcnn.py``'s.

B batch · R regions of all images · N objects in an image · K classes · M side of the grid
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from openlab.algorithms.detection.faster_rcnn import (
    BoxHead,
    BoxOutputs,
    FasterRCNN,
    FirstStage,
    Proposals,
    RegionTargets,
    RPNHead,
    RPNOutputs,
    Size,
    size_of,
)
from openlab.layers.conv import make_conv
from openlab.layers.roi import PyramidRoIAlign, to_rois
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap


class MaskRCNNOutputs(NamedTuple):
    """All raw outputs for a batch; masks (R, K, M, M) are those of the proposals."""

    rpn: RPNOutputs
    proposals: Proposals
    box: BoxOutputs
    mask_logits: Tensor


_OUT_KEYS = (
    (r'^mask_predictor\.conv5_mask\.', 'enlarge.'),
    (r'^mask_predictor\.mask_fcn_logits\.', 'mask_out.'),
)
# There the background has a map of its own, which nothing uses.
_OUT_ROWS = [(r'^mask_out\.', lambda rows: rows[1:])]


@MODELS.register_module()
class MaskHead(nn.Module):
    """Convolutions on the features of each region, enlarged once, one map for each class.

    Args:
        num_classes: K.
        in_channels: channels of every level; taken from the neck where left out.
        hidden: channels of all convolutions.
        num_convs: 3x3 convolutions before the enlargement.
        norm: normalises after each of them, see ``make_norm``; by default nothing does.
        pool: cuts out the features.
        threshold: pixels above this probability belong to the object.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^mask_head\.(\d)\.0\.', r'convs.\1.conv.'),
                (r'^mask_head\.(\d)\.1\.', r'convs.\1.norm.'),
                *_OUT_KEYS,
            ],
            transforms=_OUT_ROWS,
            signature=[r'^mask_head\.0\.1\.'],
        ),
        KeyMap(
            'torchvision',
            [
                (r'^mask_head\.(\d)\.0\.', r'convs.\1.'),
                *((rf'^mask_head\.mask_fcn{i + 1}\.', f'convs.{i}.') for i in range(4)),
                *_OUT_KEYS,
            ],
            transforms=_OUT_ROWS,
            signature=[r'^mask_predictor\.conv5_mask\.'],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        hidden: int = 256,
        num_convs: int = 4,
        norm: dict[str, Any] | None = None,
        pool: PyramidRoIAlign | None = None,
        threshold: float = 0.5,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('MaskHead needs in_channels: nothing feeds it that has out_channels')
        self.num_classes, self.threshold = num_classes, threshold
        self.pool = pool or PyramidRoIAlign(14)
        channels = [in_channels, *[hidden] * num_convs]
        self.convs = nn.ModuleList(
            make_conv(a, b, 3, norm) for a, b in pairwise(channels)
        )
        self.enlarge = nn.ConvTranspose2d(channels[-1], hidden, 2, stride=2)
        self.mask_out = nn.Conv2d(hidden, num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, image_size: Size,
        labels: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (R, K, M, M) of regions, or (R, M, M), those of one class for each.

        Args:
            feats: levels of the pyramid, finest first.
            rois: index of the image and xyxy in pixels of the padded input, (R, 5).
            image_size: (H, W) of the padded input.
            labels: class of each region, (R,), where the others are not wanted; K - 1 maps of K
                are then not computed.
        """
        x = self.pool(feats, rois, image_size)
        for conv in self.convs:
            x = F.relu_(conv(x))
        x = F.relu_(self.enlarge(x))
        if labels is None:
            return self.mask_out(x)
        weight, bias = self.mask_out.weight.flatten(1)[labels], self.mask_out.bias
        assert bias is not None
        logits = torch.baddbmm(bias[labels][:, None, None], weight[:, None], x.flatten(2))
        return logits.view(len(x), *x.shape[2:])

    def loss(
        self, logits: Tensor, targets: list[RegionTargets], samples: list[DataSample]
    ) -> dict[str, Tensor]:
        """Binary cross entropy on the map of the true class.

        Args:
            logits: of the true class, (R, M, M), for the regions of all images in a row.
            targets: those regions, image by image; each has an object.
            samples: with the true masks.
        """
        goals = []
        for target, sample in zip(targets, samples, strict=True):
            rois = torch.cat([target.matched[:, None].to(target.boxes), target.boxes], dim=1)
            masks = masks_of(sample)[:, None].to(target.boxes)
            goals.append(roi_align(masks, rois, logits.shape[-1])[:, 0])
        if not len(logits):
            return {'loss_mask': logits.sum() * 0}
        return {'loss_mask': F.binary_cross_entropy_with_logits(logits, torch.cat(goals))}

    def predict(self, logits: Tensor, found: DataSample, image_size: Size) -> DataSample:
        """Add masks (N, H, W) to the detections in one image.

        Args:
            logits: for each of the N boxes of ``found``, (N, M, M).
            found: with ``boxes`` and ``labels``.
            image_size: (H, W) of the padded input.
        """
        assert found.boxes is not None
        probs = logits.float().sigmoid()
        pasted = paste_masks(probs, found.boxes, size_of(found, image_size))
        return replace(found, masks=pasted > self.threshold)


@MODELS.register_module()
class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a third head.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to the levels of a pyramid.
        rpn_head: the first stage.
        box_head: the second stage.
        mask_head: draws masks.
        preprocessor: see ``Algorithm``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: RPNHead,
        box_head: BoxHead,
        mask_head: MaskHead,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(backbone, neck, rpn_head, box_head, preprocessor)
        self.mask_head = mask_head

    def both_stages(self, outputs: FirstStage) -> NamedTuple:
        """All heads on every proposal; shapes do not depend on data."""
        feats, rpn = outputs
        proposals = self.propose_without_samples(rpn)
        where = to_rois(list(proposals.boxes)), rpn.image_size
        return MaskRCNNOutputs(
            rpn, proposals, self.box_head(feats, *where), self.mask_head(feats, *where))

    def region_losses(
        self, feats: tuple[Tensor, ...], targets: list[RegionTargets], samples: list[DataSample],
        image_size: Size,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The losses of the box head, and of masks on the regions that have an object."""
        losses = super().region_losses(feats, targets, samples, image_size)
        positive = [RegionTargets(*(part[t.matched >= 0] for part in t)) for t in targets]
        labels = torch.cat([t.labels for t in positive])
        logits = self.mask_head(feats, to_rois([t.boxes for t in positive]), image_size, labels)
        return losses | self.mask_head.loss(logits, positive, samples)

    def predict(self, outputs: FirstStage, samples: list[DataSample]) -> list[DataSample]:
        """Best boxes of each image with their masks, in pixels of the network's input."""
        found = super().predict(outputs, samples)
        size = outputs.rpn.image_size
        boxes = [f.boxes for f in found if f.boxes is not None]
        labels = torch.cat([f.labels for f in found if f.labels is not None])
        logits = self.mask_head(outputs.feats, to_rois(boxes), size, labels)
        parts = logits.split([len(f) for f in found])
        return [self.mask_head.predict(part, f, size) for part, f in zip(parts, found)]


def masks_of(sample: DataSample) -> Tensor:
    """Masks (N, H, W) to learn from, beside the boxes of ``truth_of``; crowds are left out.

    Raises:
        ValueError: if the sample has none.
    """
    if sample.masks is None:
        name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
        raise ValueError(f'sample {name} has no masks; Mask R-CNN cannot learn from it')
    size, found = sample.meta.get('img_shape'), tuple(sample.masks.shape[-2:])
    if size is not None and tuple(size[:2]) != found:
        name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
        raise ValueError(f'the masks of sample {name} are {found[0]} x {found[1]}, but its image '
                         f'is {size[0]} x {size[1]}: the transforms must move both alike')
    return sample.masks if sample.is_crowd is None else sample.masks[~sample.is_crowd]


def paste_masks(probs: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Stretch grids over their boxes, (N, H, W), zero outside.

    Args:
        probs: (N, M, M).
        boxes: xyxy in pixels, (N, 4).
        size: (H, W) of the image.
    """
    height, width = size
    out = probs.new_zeros(len(probs), height, width)
    # A border of zeros, so that masks end softly at the edge of their box, not abruptly.
    M = probs.shape[-1]
    padded = F.pad(probs, (1, 1, 1, 1))[:, None]
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = half * (M + 2) / M
    corners = torch.cat([centre - half, centre + half], dim=1).long().tolist()
    for canvas, grid, (x0, y0, x1, y1) in zip(out, padded, corners):
        shape = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
        grown = F.interpolate(grid[None], shape, mode='bilinear', align_corners=False)[0, 0]
        top, left = max(y0, 0), max(x0, 0)
        part = grown[top - y0 : height - y0, left - x0 : width - x0]
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out
