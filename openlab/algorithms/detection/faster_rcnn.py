"""Faster R-CNN: propose regions, then look at each of them closely.

Paper: Faster R-CNN, https://arxiv.org/abs/1506.01497; on a pyramid: Feature Pyramid Networks,
https://arxiv.org/abs/1612.03144.

Idea: a small network scores anchors at every place ("is there anything?") and moves them; the
best ones, freed of duplicates, become proposals. From each proposal features of one size are cut
out of the pyramid, and a second network names the class and moves the box once more, for each
class in its own way. Both are trained at once; proposals are taken as given by the second.

What differs from the paper: as in torchvision, both box losses are smooth L1 with its corner at
1/9, divided by all drawn anchors or proposals, and true boxes join the proposals in training.
Classes are numbered from 0; the background is the last one. The pieces: anchors, matching,
drawing and box offsets are in ``openlab/targets``, the cutting out is ``openlab/layers/roi.py``.

B batch · A anchors in all levels · P proposals of an image · R regions of all images
N objects in an image · K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from openlab.algorithms.base import Algorithm, Mode
from openlab.algorithms.detection.dense import flatten_levels, level_sizes
from openlab.layers.conv import make_conv
from openlab.layers.roi import PyramidRoIAlign, to_rois
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.targets.anchors import AnchorGenerator
from openlab.targets.box_coder import decode_boxes, encode_boxes
from openlab.targets.matching import IoUAssigner
from openlab.targets.nms import DetectionLimits, detections, truth_of
from openlab.targets.sampling import BalancedSampler
from openlab.zoo.key_map import KeyMap

CORNER = 1 / 9  # where smooth L1 turns from a parabola to a line
Size = tuple[int, int]


class RPNOutputs(NamedTuple):
    """Raw outputs of the first stage for a batch.

    Attributes:
        logits: whether each anchor holds anything, (B, A).
        deltas: offsets from each anchor, (B, A, 4).
        anchors: xyxy in pixels of the padded input, (A, 4).
        level_sizes: number of anchors of each level, summing to A.
        image_size: (H, W) of the padded input.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    level_sizes: tuple[int, ...]
    image_size: Size


class BoxOutputs(NamedTuple):
    """Raw outputs of the second stage.

    Attributes:
        logits: scores of the classes and, last, of the background, (R, K + 1).
        deltas: offsets from the region, one set for each class, (R, K, 4).
    """

    logits: Tensor
    deltas: Tensor


class Proposals(NamedTuple):
    """As many regions of each image, so that shapes are known beforehand.

    Attributes:
        boxes: best first, (B, P, 4).
        is_kept: false where nothing was left to propose, (B, P).
    """

    boxes: Tensor
    is_kept: Tensor

    def of_images(self) -> list[Tensor]:
        """The kept ones of each image."""
        return [boxes[kept] for boxes, kept in zip(self.boxes, self.is_kept)]


class FirstStage(NamedTuple):
    """What the second stage starts from: the levels of the pyramid, and the first stage."""

    feats: tuple[Tensor, ...]
    rpn: RPNOutputs


class FasterRCNNOutputs(NamedTuple):
    """All raw outputs for a batch; R is B P, image by image."""

    rpn: RPNOutputs
    proposals: Proposals
    box: BoxOutputs


class RegionTargets(NamedTuple):
    """Regions of one image to learn from.

    Attributes:
        boxes: (n, 4).
        labels: class, or K for background, (n,).
        matched: index of the true object, negative for background, (n,).
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor


@MODELS.register_module()
@dataclass(frozen=True)
class ProposalLimits:
    """Which anchors become proposals.

    Attributes:
        candidates: at most so many of each level before suppression.
        proposals: at most so many of each image in the end.
        nms_iou: of two boxes of a level that overlap more, the worse one goes.
        min_size: boxes with a shorter side go, in pixels.
    """

    candidates: int = 1000
    proposals: int = 1000
    nms_iou: float = 0.7
    min_size: float = 1e-3


@MODELS.register_module()
class RPNHead(nn.Module):
    """The first stage: a 3x3 convolution over every level, two outputs for each anchor.

    Args:
        in_channels: channels of every level; taken from the neck where left out.
        num_convs: 3x3 convolutions before the outputs.
        anchors: generates the anchors; by default one size at each of P2 to P6.
        assigner: decides which anchor has to find which object.
        sampler: draws the anchors that count.
        train_limits: which anchors become proposals in training.
        test_limits: and afterwards.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^conv\.(\d)\.0\.', r'convs.\1.'),
                (r'^conv\.(?=weight|bias)', 'convs.0.'),  # as older files say
                (r'^cls_logits\.', 'score_out.'),
                (r'^bbox_pred\.', 'box_out.'),
            ],
            signature=[r'^cls_logits\.', r'^bbox_pred\.'],
        ),
    )

    def __init__(
        self,
        in_channels: int | None = None,
        num_convs: int = 1,
        anchors: AnchorGenerator | None = None,
        assigner: nn.Module | None = None,
        sampler: nn.Module | None = None,
        train_limits: ProposalLimits | None = None,
        test_limits: ProposalLimits | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('RPNHead needs in_channels: nothing feeds it that has out_channels')
        self.anchors = anchors or AnchorGenerator([[32], [64], [128], [256], [512]])
        self.assigner = assigner or IoUAssigner(foreground=0.7, background=0.3, keep_best=True)
        self.sampler = sampler or BalancedSampler(256, 0.5)
        self.train_limits = train_limits or ProposalLimits(candidates=2000, proposals=2000)
        self.test_limits = test_limits or ProposalLimits()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(num_convs))
        self.score_out = nn.Conv2d(in_channels, self.anchors.num_shapes, 1)
        self.box_out = nn.Conv2d(in_channels, self.anchors.num_shapes * 4, 1)
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, feats: Sequence[Tensor], image_size: Size) -> RPNOutputs:
        """Score and move every anchor of every level."""
        logits, deltas = [], []
        for x in feats:
            for conv in self.convs:
                x = F.relu_(conv(x))
            logits.append(self.score_out(x))
            deltas.append(self.box_out(x))
        return RPNOutputs(
            flatten_levels(logits, 1).squeeze(-1), flatten_levels(deltas, 4),
            torch.cat(self.anchors(feats, image_size)), level_sizes(logits, 1), image_size,
        )  # fmt: skip

    def loss(self, outputs: RPNOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """Cross entropy on the drawn anchors, smooth L1 on those of them that have an object."""
        logits, targets, box_losses = [], [], []
        for image, sample in enumerate(samples):
            boxes, _ = truth_of(sample)
            matched = self.assigner(box_iou(boxes, outputs.anchors))
            drawn = self.sampler(matched)
            positive = drawn[matched[drawn] >= 0]
            logits.append(outputs.logits[image, drawn])
            targets.append((matched[drawn] >= 0).to(outputs.logits.dtype))
            goal = encode_boxes(boxes[matched[positive]], outputs.anchors[positive])
            box_losses.append(_box_loss(outputs.deltas[image, positive], goal))
        target = torch.cat(targets)
        return {
            'loss_rpn_cls': F.binary_cross_entropy_with_logits(torch.cat(logits), target),
            'loss_rpn_box': torch.stack(box_losses).sum() / max(len(target), 1),
        }

    def predict(
        self, outputs: RPNOutputs, sizes: Sequence[Size], limits: ProposalLimits
    ) -> Proposals:
        """The best anchors of each image where the network moves them; no gradient flows.

        Args:
            outputs: of ``forward``.
            sizes: (H, W) of each image without its padding.
            limits: ``train_limits`` or ``test_limits``.
        """
        edges = outputs.anchors.new_tensor([[[w, h, w, h]] for h, w in sizes])
        boxes, scores = [], []
        begin = 0
        for logits in outputs.logits.detach().split(outputs.level_sizes, dim=1):
            count = logits.shape[1]
            best = logits.topk(min(limits.candidates, count), dim=1)
            index = best.indices + begin
            deltas = outputs.deltas.detach().gather(1, index[..., None].expand(-1, -1, 4))
            moved = decode_boxes(deltas.float(), outputs.anchors[index])
            moved = torch.minimum(moved.clamp(min=0), edges)
            boxes.append(moved)
            scores.append(torch.stack([
                _suppress(b, s, limits) for b, s in zip(moved, best.values.float())
            ]))  # fmt: skip
            begin += count
        all_scores = torch.cat(scores, dim=1)
        best = all_scores.topk(min(limits.proposals, all_scores.shape[1]), dim=1)
        index = best.indices[..., None].expand(-1, -1, 4)
        return Proposals(torch.cat(boxes, dim=1).gather(1, index), best.values.isfinite())


@MODELS.register_module()
class BoxHead(nn.Module):
    """The second stage: convolutions, if wanted, and hidden layers on each region's features.

    Args:
        num_classes: K.
        in_channels: channels of every level; taken from the neck where left out.
        hidden: width of the hidden layers.
        num_convs: 3x3 convolutions before them; the published heads have none, or four.
        num_hidden: hidden layers; two without convolutions, one with them.
        norm: normalises after the convolutions, see ``make_norm``; by default nothing does.
        pool: cuts out the features.
        assigner: decides which proposal has to find which object.
        sampler: draws the proposals that count.
        delta_weights: factors on the offsets, which bring their spread near to 1.
        limits: which candidates become detections.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^box_head\.fc6\.', 'hidden.0.'),
                (r'^box_head\.fc7\.', 'hidden.1.'),
                (r'^box_head\.(\d)\.0\.', r'convs.\1.conv.'),
                (r'^box_head\.(\d)\.1\.', r'convs.\1.norm.'),
                (r'^box_head\.\d\.(?=weight|bias)', 'hidden.0.'),  # after the convolutions
                (r'^box_predictor\.cls_score\.', 'cls_out.'),
                (r'^box_predictor\.bbox_pred\.', 'box_out.'),
            ],
            # There the background comes first and has offsets of its own, which nothing uses.
            transforms=[
                (r'^cls_out\.', lambda rows: torch.cat([rows[1:], rows[:1]])),
                (r'^box_out\.', lambda rows: rows[4:]),
            ],
            signature=[r'^box_predictor\.cls_score\.'],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        hidden: int = 1024,
        num_convs: int = 0,
        num_hidden: int = 2,
        norm: dict[str, Any] | None = None,
        pool: PyramidRoIAlign | None = None,
        assigner: nn.Module | None = None,
        sampler: nn.Module | None = None,
        delta_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        limits: DetectionLimits | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('BoxHead needs in_channels: nothing feeds it that has out_channels')
        self.num_classes, self.delta_weights = num_classes, tuple(delta_weights)
        self.pool = pool or PyramidRoIAlign(7)
        self.assigner = assigner or IoUAssigner(foreground=0.5)
        self.sampler = sampler or BalancedSampler(512, 0.25)
        self.limits = limits or DetectionLimits(score=0.05, nms_iou=0.5, candidates=10_000)
        self.convs = nn.ModuleList(
            make_conv(in_channels, in_channels, 3, norm) for _ in range(num_convs))
        widths = [in_channels * self.pool.size**2, *[hidden] * num_hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.cls_out = nn.Linear(widths[-1], num_classes + 1)
        self.box_out = nn.Linear(widths[-1], num_classes * 4)
        for layer, std in ((self.cls_out, 0.01), (self.box_out, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, feats: Sequence[Tensor], rois: Tensor, image_size: Size) -> BoxOutputs:
        """Look at regions.

        Args:
            feats: levels of the pyramid, finest first.
            rois: index of the image and xyxy in pixels of the padded input, (R, 5).
            image_size: (H, W) of the padded input.
        """
        x = self.pool(feats, rois, image_size)
        for conv in self.convs:
            x = F.relu_(conv(x))
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu_(layer(x))
        return BoxOutputs(self.cls_out(x), self.box_out(x).view(-1, self.num_classes, 4))

    def draw(self, proposals: Sequence[Tensor], samples: list[DataSample]) -> list[RegionTargets]:
        """Join true boxes to the proposals of each image, and draw those that count."""
        drawn = []
        for boxes, sample in zip(proposals, samples, strict=True):
            truth, labels = truth_of(sample, self.num_classes)
            boxes = torch.cat([boxes, truth])
            matched = self.assigner(box_iou(truth, boxes))
            index = self.sampler(matched)
            matched = matched[index]
            target = torch.full_like(matched, self.num_classes)
            target[matched >= 0] = labels[matched[matched >= 0]]
            drawn.append(RegionTargets(boxes[index], target, matched))
        return drawn

    def loss(
        self, outputs: BoxOutputs, targets: list[RegionTargets], samples: list[DataSample]
    ) -> dict[str, Tensor]:
        """Cross entropy on all drawn regions, smooth L1 on those that have an object.

        Args:
            outputs: for the regions of all images in a row.
            targets: those regions, image by image.
            samples: with the true boxes.
        """
        labels = torch.cat([t.labels for t in targets])
        goals = []
        for target, sample in zip(targets, samples, strict=True):
            found = target.matched >= 0
            truth = truth_of(sample)[0][target.matched[found]]
            goals.append(encode_boxes(truth, target.boxes[found], self.delta_weights))
        positive = (labels < self.num_classes).nonzero()[:, 0]
        box_loss = _box_loss(outputs.deltas[positive, labels[positive]], torch.cat(goals))
        return {
            'loss_cls': F.cross_entropy(outputs.logits, labels),
            'loss_box': box_loss / max(len(labels), 1),
        }

    def predict(
        self, outputs: BoxOutputs, boxes: Tensor, sample: DataSample, image_size: Size
    ) -> DataSample:
        """Detections in one image.

        Args:
            outputs: for its P regions.
            boxes: those regions, (P, 4).
            sample: whose ``meta`` is carried over.
            image_size: (H, W) of the padded input.
        """
        probs = outputs.logits.float().softmax(dim=-1)[:, : self.num_classes]
        place, label = (probs > self.limits.score).nonzero(as_tuple=True)
        deltas = outputs.deltas[place, label].float()
        found = decode_boxes(deltas, boxes[place], self.delta_weights)
        found = clip_boxes_to_image(found, size_of(sample, image_size))
        is_wide = ((found[:, 2:] - found[:, :2]) >= 0.01).all(dim=1)
        scores = probs[place, label]
        order = scores.masked_fill(~is_wide, -1).sort(descending=True, stable=True).indices
        order = order[: min(int(is_wide.sum()), self.limits.candidates)]
        return detections(
            found[order], scores[order], label[order], sample, image_size, self.limits)


@MODELS.register_module()
class FasterRCNN(Algorithm):
    """Backbone, pyramid, proposals, and a head that looks at each of them.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to the levels of a pyramid.
        rpn_head: the first stage.
        box_head: the second stage.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^backbone\.body\.', 'backbone.'),
                (r'^backbone\.fpn\.', 'neck.'),
                (r'^rpn\.head\.', 'rpn_head.'),
                (r'^roi_heads\.box_', 'box_head.box_'),
                (r'^roi_heads\.mask_', 'mask_head.mask_'),
            ],
            signature=[r'^backbone\.body\.', r'^rpn\.head\.', r'^roi_heads\.box_'],
        ),
    )

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: RPNHead,
        box_head: BoxHead,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.backbone, self.neck = backbone, neck
        self.rpn_head, self.box_head = rpn_head, box_head

    def forward(
        self, inputs: Tensor, samples: list[DataSample] | None = None, mode: Mode = 'tensor'
    ) -> Any:
        """As in ``Algorithm``; ``'tensor'`` gives both stages."""
        result = super().forward(inputs, samples, mode)
        return self.both_stages(result) if mode == 'tensor' else result

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> FirstStage:
        """Images (B, 3, H, W) to what both ``loss`` and ``predict`` begin with."""
        return self.outputs_of_maps(self.backbone(inputs), inputs)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> FirstStage:
        """Maps of the backbone to what both ``loss`` and ``predict`` begin with."""
        height, width = inputs.shape[-2:]
        levels = self.neck(feats)
        return FirstStage(levels, self.rpn_head(levels, (height, width)))

    def both_stages(self, outputs: FirstStage) -> NamedTuple:
        """The second stage on every proposal, as when predicting; shapes do not depend on data."""
        feats, rpn = outputs
        proposals = self.propose_without_samples(rpn)
        rois = to_rois(list(proposals.boxes))
        return FasterRCNNOutputs(rpn, proposals, self.box_head(feats, rois, rpn.image_size))

    def propose_without_samples(self, rpn: RPNOutputs) -> Proposals:
        """Proposals where nothing is known of padding."""
        sizes = [rpn.image_size] * len(rpn.logits)
        return self.rpn_head.predict(rpn, sizes, self.rpn_head.test_limits)

    def loss(self, outputs: FirstStage, samples: list[DataSample]) -> dict[str, Tensor]:
        """The losses of both stages."""
        feats, rpn = outputs
        losses = self.rpn_head.loss(rpn, samples)
        sizes = [size_of(sample, rpn.image_size) for sample in samples]
        proposals = self.rpn_head.predict(rpn, sizes, self.rpn_head.train_limits)
        targets = self.box_head.draw(proposals.of_images(), samples)
        return losses | self.region_losses(feats, targets, samples, rpn.image_size)

    def region_losses(
        self, feats: tuple[Tensor, ...], targets: list[RegionTargets], samples: list[DataSample],
        image_size: Size,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The losses of the second stage on the drawn regions."""
        outputs = self.box_head(feats, to_rois([t.boxes for t in targets]), image_size)
        return self.box_head.loss(outputs, targets, samples)

    def predict(self, outputs: FirstStage, samples: list[DataSample]) -> list[DataSample]:
        """Best boxes of each image, in pixels of the network's input."""
        feats, rpn = outputs
        sizes = [size_of(sample, rpn.image_size) for sample in samples]
        proposals = self.rpn_head.predict(rpn, sizes, self.rpn_head.test_limits).of_images()
        box = self.box_head(feats, to_rois(proposals), rpn.image_size)
        counts = [len(p) for p in proposals]
        return [
            self.box_head.predict(BoxOutputs(logits, deltas), boxes, sample, rpn.image_size)
            for logits, deltas, boxes, sample in zip(
                box.logits.split(counts), box.deltas.split(counts), proposals, samples)
        ]  # fmt: skip


def size_of(sample: DataSample, image_size: Size) -> Size:
    """(H, W) of an image without its padding."""
    height, width = sample.meta.get('img_shape', image_size)[:2]
    return int(height), int(width)


def _box_loss(deltas: Tensor, goal: Tensor) -> Tensor:
    return F.smooth_l1_loss(deltas, goal, beta=CORNER, reduction='sum')


def _suppress(boxes: Tensor, scores: Tensor, limits: ProposalLimits) -> Tensor:
    """Scores (n,), minus infinity where a better box (n, 4) overlaps or a side is too short."""
    is_wide = ((boxes[:, 2:] - boxes[:, :2]) >= limits.min_size).all(dim=1)
    if boxes.is_meta:  # there is nothing to compare
        return scores
    # torchvision tells torch.export that suppression leaves two boxes or more: two that overlap
    # nothing make it true.
    apart = boxes.new_tensor([[-4, -4, -3, -3], [-2, -2, -1, -1]])
    kept = nms(torch.cat([boxes, apart]), F.pad(scores, (0, 2)), limits.nms_iou)
    is_best = is_wide.new_zeros(len(boxes) + 2).index_fill(0, kept, True)[:-2]
    return scores.masked_fill(~(is_wide & is_best), -torch.inf)
