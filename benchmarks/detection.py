"""Training step and inference of detectors and of DeepLabV3, against torchvision's.

Both sides hold the same ResNet-50 model with the same weights (ours read through the key maps),
see the same two images of 256 x 256 pixels and have the same settings: frozen batch norms and two
frozen stages in detectors, as both sides fine-tune them; as many proposals and drawn regions, the
same suppression. The limit of scores is set for both so that some hundred candidates of an image
remain, because an untrained network would report nothing and skip that work. Images come as bytes
to ours and as numbers to torchvision's, as the users of each have them. Ours lays channels last
where openlab does so by itself (evaluation on CPUs) and, in training, where its configs for that
algorithm ask for it (DeepLab).

* A training step: forward, losses, backward, one step of SGD.
* Inference: images to detections with masks, or to a map of classes.

What the two compute is compared before it is timed: losses of the same draw, and detections. One
thread each, turn by turn, in seconds of CPU: other programs on the machine disturb that least.

    python benchmarks/detection.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection as peers
from torchvision.models import resnet50
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.ops import FrozenBatchNorm2d as TheirFrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks._common import Report, interleaved
from openlab.algorithms.detection.faster_rcnn import (
    BoxHead,
    FasterRCNN,
    ProposalLimits,
    RPNHead,
)
from openlab.algorithms.detection.fcos import FCOS, FCOSHead
from openlab.algorithms.detection.mask_rcnn import MaskHead, MaskRCNN
from openlab.algorithms.detection.retinanet import RetinaHead, RetinaNet
from openlab.algorithms.segmentation.deeplabv3 import DeepLabV3, DeepLabV3Head
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.loading import load_weights
from openlab.heads.fcn_head import FCNHead
from openlab.layers.norm import FrozenBatchNorm2d
from openlab.necks.fpn import FPN
from openlab.structures.data_sample import DataSample
from openlab.targets.anchors import AnchorGenerator
from openlab.targets.nms import DetectionLimits
from openlab.targets.sampling import BalancedSampler

SIZE, BATCH, K = 256, 2, 80
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
NUM_DRAWN, NUM_PROPOSALS, NUM_TRAIN_PROPOSALS = 128, 300, 1000
FROZEN = {'type': FrozenBatchNorm2d}
# torchvision cuts the sizes to whole pixels, unlike the paper.
RETINA_SIZES = [[int(size * 2 ** (i / 3)) for i in range(3)] for size in (32, 64, 128, 256, 512)]


@dataclass
class Pair:
    """One algorithm on both sides.

    Attributes:
        ours: model of openlab.
        theirs: torchvision's.
        first_label: theirs of our class 0; two-stage detectors number from 1.
        losses: our names of theirs.
        set_score: sets the limit of scores on both sides.
    """

    ours: Any
    theirs: Any
    first_label: int
    losses: dict[str, str]
    set_score: Callable[[float], None]


def their_pyramid(levels: list[int], extra: nn.Module | None) -> nn.Module:
    """ResNet-50 with FPN as torchvision builds it for published weights."""
    body = resnet50(weights=None, norm_layer=TheirFrozenBatchNorm2d)
    return _resnet_fpn_extractor(body, 3, returned_layers=levels, extra_blocks=extra)


def our_backbone(stages: tuple[int, ...]) -> ResNet:
    """The same network; its stem and first stage are frozen, as ``FreezeHook`` does it."""
    backbone = ResNet(50, norm=FROZEN, out_stages=stages)
    for part in (backbone.stem, backbone.stages[0]):
        part.requires_grad_(False)
    return backbone


def preprocessor(name: str) -> ImagePreprocessor:
    """Bytes to what torchvision's model computes with; its DeepLabV3 takes values up to 1."""
    if name == 'deeplabv3':
        return ImagePreprocessor((0.0,) * 3, (255.0,) * 3, channels_last=True)
    return ImagePreprocessor(MEAN, STD, pad_divisor=32)


def two_stage(with_masks: bool) -> Pair:
    """Faster or Mask R-CNN."""
    make = peers.MaskRCNN if with_masks else peers.FasterRCNN
    theirs = make(
        their_pyramid([1, 2, 3, 4], None), K + 1, min_size=SIZE, max_size=SIZE,
        rpn_post_nms_top_n_train=NUM_TRAIN_PROPOSALS, rpn_post_nms_top_n_test=NUM_PROPOSALS,
        box_batch_size_per_image=NUM_DRAWN)  # fmt: skip
    parts: list[nn.Module] = [
        our_backbone((2, 3, 4, 5)), FPN((256, 512, 1024, 2048), extra='pool'),
        RPNHead(256, train_limits=ProposalLimits(2000, NUM_TRAIN_PROPOSALS),
                test_limits=ProposalLimits(1000, NUM_PROPOSALS)),
        BoxHead(K, 256, sampler=BalancedSampler(NUM_DRAWN, 0.25)),
    ]  # fmt: skip
    ours: Any = MaskRCNN(*parts, MaskHead(K, 256)) if with_masks else FasterRCNN(*parts)
    names = {'loss_rpn_cls': 'loss_objectness', 'loss_rpn_box': 'loss_rpn_box_reg',
             'loss_cls': 'loss_classifier', 'loss_box': 'loss_box_reg'}
    if with_masks:
        names['loss_mask'] = 'loss_mask'

    def set_score(score: float) -> None:
        theirs.roi_heads.score_thresh = score
        ours.box_head.limits = replace(ours.box_head.limits, score=score)

    return Pair(ours, theirs, 1, names, set_score)


def dense(kind: str) -> Pair:
    """RetinaNet or FCOS."""
    body = their_pyramid([2, 3, 4], LastLevelP6P7(256, 256))
    parts = our_backbone((3, 4, 5)), FPN((512, 1024, 2048), extra='p6p7', extra_from='p5')
    ours: Any
    theirs: Any
    if kind == 'retinanet':
        theirs = peers.RetinaNet(body, K, min_size=SIZE, max_size=SIZE, detections_per_img=100)
        ours = RetinaNet(*parts, RetinaHead(K, 256, anchors=AnchorGenerator(RETINA_SIZES)))
        names = {'loss_cls': 'classification', 'loss_box': 'bbox_regression'}
    else:
        theirs = peers.FCOS(body, K, min_size=SIZE, max_size=SIZE)
        ours = FCOS(*parts, FCOSHead(K, 256))
        names = {'loss_cls': 'classification', 'loss_box': 'bbox_regression',
                 'loss_centerness': 'bbox_ctrness'}

    def set_score(score: float) -> None:
        theirs.score_thresh = score
        ours.head.limits = DetectionLimits(score, theirs.nms_thresh, theirs.topk_candidates,
                                           theirs.detections_per_img)

    return Pair(ours, theirs, 0, names, set_score)


def deeplab() -> Pair:
    """DeepLabV3 with its auxiliary head."""
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    ours = DeepLabV3(
        ResNet(50, output_stride=8, out_stages=(4, 5)),
        head=DeepLabV3Head(21, 2048), auxiliary_head=FCNHead(21, 1024, in_index=-2))  # fmt: skip
    return Pair(ours, theirs, 0, {'loss_seg': 'out', 'loss_aux_seg': 'aux'}, lambda score: None)


PAIRS: dict[str, Callable[[], Pair]] = {
    'faster_rcnn': lambda: two_stage(False), 'mask_rcnn': lambda: two_stage(True),
    'retinanet': lambda: dense('retinanet'), 'fcos': lambda: dense('fcos'), 'deeplabv3': deeplab,
}


def make_pair(name: str) -> Pair:
    """Build both sides, ours with their weights."""
    torch.manual_seed(0)
    pair = PAIRS[name]()
    calm(pair.theirs)
    pair.ours.preprocessor = preprocessor(name)
    report = load_weights(pair.ours, pair.theirs.state_dict())
    if not report.complete:
        raise RuntimeError(f'{name}: the weights do not fit: {report}')
    return pair


def calm(model: nn.Module) -> None:
    """Let branches of residual blocks start small, as trained ones are, so that maps stay finite.

    A frozen batch norm of an untrained network normalises nothing.
    """
    for name, module in model.named_modules():
        if name.endswith('bn3') and isinstance(module, TheirFrozenBatchNorm2d):
            module.weight.fill_(0.2)


class Data:
    """A batch in the forms that both sides take: 8 objects in each image."""

    def __init__(self, first_label: int):
        draw = torch.Generator().manual_seed(1)
        self.images = torch.randint(256, (BATCH, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
        self.floats = list(self.images.float() / 255)
        centre = torch.rand(BATCH, 8, 2, generator=draw) * SIZE
        half = torch.rand(BATCH, 8, 2, generator=draw) * SIZE / 6 + 8
        boxes = torch.cat([centre - half, centre + half], dim=-1).clamp(0, SIZE)
        labels = torch.randint(K, (BATCH, 8), generator=draw)
        y, x = torch.arange(SIZE)[:, None], torch.arange(SIZE)[None]
        x0, y0, x1, y1 = boxes[..., None, None].unbind(2)
        masks = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        self.maps = torch.randint(21, (BATCH, SIZE, SIZE), generator=draw)
        self.samples, self.targets = [], []
        for b, y, m, s in zip(boxes, labels, masks, self.maps, strict=True):
            self.samples.append(DataSample(
                meta={'img_shape': (SIZE, SIZE)}, boxes=b, labels=y, masks=m, semantic_map=s))
            self.targets.append({'boxes': b, 'labels': y + first_label, 'masks': m.byte()})


def our_losses(pair: Pair, data: Data) -> dict[str, Tensor]:
    """Losses in training, from bytes."""
    batch = {'inputs': list(data.images), 'samples': data.samples}
    batch = pair.ours.preprocessor(batch, training=True)
    return pair.ours(batch['inputs'], batch['samples'], mode='loss')


def their_losses(pair: Pair, data: Data) -> dict[str, Tensor]:
    """Losses in training; those of a segmentor as torchvision's recipe computes them."""
    if 'loss_seg' not in pair.losses:
        return pair.theirs(data.floats, data.targets)
    outputs = pair.theirs(torch.stack(data.floats))
    found = {k: F.cross_entropy(v, data.maps, ignore_index=255) for k, v in outputs.items()}
    return {'out': found['out'], 'aux': found['aux'] * 0.4}


def train_step(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    """One step of SGD as a function."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=1e-6, momentum=0.9)

    def step() -> None:
        found = losses()
        optimizer.zero_grad()
        sum(v for k, v in found.items() if k != 'num_items').backward()  # type: ignore[union-attr]
        optimizer.step()

    return step


@torch.inference_mode()
def our_inference(pair: Pair, data: Data) -> list[DataSample]:
    """Bytes to predictions."""
    batch = pair.ours.preprocessor({'inputs': list(data.images), 'samples': data.samples})
    return pair.ours(batch['inputs'], batch['samples'], mode='predict')


@torch.inference_mode()
def their_inference(pair: Pair, data: Data) -> Any:
    """The same."""
    if 'loss_seg' in pair.losses:
        return pair.theirs(torch.stack(data.floats))['out'].argmax(1)
    return pair.theirs(data.floats)


def loss_gap(pair: Pair, data: Data) -> float:
    """Largest relative difference of a loss, both sides drawing the same numbers."""
    torch.manual_seed(3)
    mine = our_losses(pair, data)
    torch.manual_seed(3)
    other = their_losses(pair, data)
    return max(abs(mine[a].item() / other[b].item() - 1) for a, b in pair.losses.items())


def prediction_gap(pair: Pair, data: Data) -> float:
    """Share of detections (or pixels) in which the two sides differ."""
    mine, other = our_inference(pair, data), their_inference(pair, data)
    if 'loss_seg' in pair.losses:
        return float((torch.stack([m.semantic_map for m in mine]) != other).float().mean())
    return difference(mine, other, pair.first_label)


def difference(mine: list[DataSample], other: list[dict[str, Tensor]], first_label: int) -> float:
    """Share of detections that only one side holds.

    They are compared in any order: equal scores may be sorted either way.
    """
    same, total = 0, 0
    for m, o in zip(mine, other, strict=True):
        total += max(len(m), len(o['boxes']))
        close = torch.isclose(m.boxes[:, None], o['boxes'][None], rtol=1e-3, atol=0.05).all(-1)
        close &= m.labels[:, None] == o['labels'][None] - first_label
        if m.masks is not None:
            masks = o['masks'][:, 0] > 0.5
            close &= (m.masks[:, None] != masks[None]).float().mean((-1, -2)) < 1e-3
        same += int(close.any(1).sum())
    return 1 - same / max(total, 1)


def choose_score(pair: Pair, data: Data, wanted: int = 400) -> None:
    """Set the limit of scores on both sides so that ``wanted`` candidates of an image remain."""
    if 'loss_seg' in pair.losses:
        return
    batch = pair.ours.preprocessor({'inputs': list(data.images), 'samples': data.samples})
    with torch.inference_mode():
        outputs = pair.ours(batch['inputs'])
        if pair.first_label:
            scores = outputs.box.logits.softmax(-1)[:, :-1]
        elif hasattr(outputs, 'centerness'):
            scores = (outputs.logits.sigmoid() * outputs.centerness.sigmoid()[..., None]).sqrt()
        else:
            scores = outputs.logits.sigmoid()
    pair.set_score(float(scores.flatten().topk(wanted * BATCH).values[-1]))


def compare(report: Report, name: str, turns: int) -> None:
    """Check and time one algorithm."""
    pair = make_pair(name)
    data = Data(pair.first_label)
    pair.ours.eval(), pair.theirs.eval()
    choose_score(pair, data)
    report.at_most(f'{name}_predictions_that_differ', prediction_gap(pair, data), 0.02)
    sides = {'openlab': pair.ours, 'torchvision': pair.theirs}
    inference = interleaved(
        {'openlab': lambda: our_inference(pair, data),
         'torchvision': lambda: their_inference(pair, data)},
        turns=2 * turns, clock=time.process_time)  # fmt: skip
    pair.ours.train(), pair.theirs.train()
    report.at_most(f'{name}_losses_differ_by', losses_without_dropout(pair, data), 1e-3)
    losses = {'openlab': lambda: our_losses(pair, data),
              'torchvision': lambda: their_losses(pair, data)}
    training = interleaved({k: train_step(sides[k], losses[k]) for k in sides},
                           turns=turns, clock=time.process_time)
    for phase, times in (('train', training), ('infer', inference)):
        report.timings({f'{name} {phase} {side}': t for side, t in times.items()})
        ratio = times['openlab'].over(times['torchvision'])
        report.at_most(f'{name}_{phase}_over_torchvision', ratio, 1.0)


def losses_without_dropout(pair: Pair, data: Data) -> float:
    """``loss_gap``, with dropout set aside: the two sides draw its numbers in another order."""
    dropped = [m for side in (pair.ours, pair.theirs) for m in side.modules()
               if isinstance(m, (nn.Dropout, nn.Dropout2d))]
    rates = [m.p for m in dropped]
    for module in dropped:
        module.p = 0.0
    gap = loss_gap(pair, data)
    for module, rate in zip(dropped, rates, strict=True):
        module.p = rate
    return gap


def main() -> int:
    """Compare every algorithm, or the named ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('names', nargs='*', help=f'of {", ".join(PAIRS)}; by default all')
    parser.add_argument('--turns', type=int, default=13, help='of training; twice as many others')
    args = parser.parse_args()
    unknown = set(args.names) - set(PAIRS)
    if unknown:
        parser.error(f'{sorted(unknown)} are none of {", ".join(PAIRS)}')
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    report = Report(f'detection: {BATCH} images of {SIZE} x {SIZE}, ResNet-50, one thread')
    for name in args.names or PAIRS:
        compare(report, name, args.turns)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
