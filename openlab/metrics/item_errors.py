"""What is wrong with each prediction, by kinds of errors: where a number of a metric comes from.

Objects are judged as in TIDE (https://arxiv.org/abs/2008.08115, section 2.2): a prediction that
finds no object has the wrong class, the wrong place, both, is a duplicate, or lies on background;
a true object that neither is found nor counts in one of the first two is missed. Predictions are
matched as in COCO's evaluation, in the order of their scores, so what becomes of one does not
depend on less certain ones: a score threshold only hides predictions, and ``found_at`` and
``covered_at`` of a true object tell from which threshold on it is missed.

Panoptic segments are judged by the same rules, with panoptic quality's overlaps. The pixels of a
semantic map are wrong because their class is predicted nowhere in the image (missed), because
the predicted class is nowhere in the truth (invented), because they lie next to a true border, or
because two classes are confused. A class label is wrong with confidence, nearly right, or wrong.

P predicted objects · T true objects · K classes · H, W image height and width
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from openlab.structures.boxes import box_area, box_iou
from openlab.structures.data_sample import DataSample
from openlab.structures.item_errors import (
    COVERED,
    IGNORED,
    KINDS,
    RIGHT,
    TASKS,
    ItemErrors,
    Region,
    Task,
    Verdict,
)
from openlab.structures.objects import IGNORE, classes_as_objects, segments_as_objects

FOREGROUND = 0.5
"""Overlap from which on a prediction lies on an object (TIDE's t_f)."""
BACKGROUND = 0.1
"""Overlap below which there is nothing (TIDE's t_b)."""
CONFIDENT = 0.8
_ABOVE_HALF = 0.5 + 1e-7  # panoptic quality wants more than half, not half
_TIE = 1e-3  # what the scores of wrong predictions count beside the number of errors
_LARGEST_REGIONS = 24


def task_of(prediction: DataSample, truth: DataSample) -> Task | None:
    """The richest task for which both sides have what is compared; ``None`` without any."""
    for task in ('panoptic', 'instance', 'detection', 'semantic', 'classification'):
        if not missing_fields(prediction, task) and not missing_fields(truth, task):
            return task  # type: ignore[return-value]
    return None


def missing_fields(sample: DataSample, task: str) -> list[str]:
    """What a sample lacks to take part in a task."""
    needed = {'panoptic': ('panoptic_map', 'segments'), 'instance': ('masks', 'labels'),
              'detection': ('boxes', 'labels'), 'semantic': ('semantic_map',),
              'classification': ()}[task]
    if task == 'classification':
        return ['label'] if sample.label is None and sample.label_probs is None else []
    return [name for name in needed if getattr(sample, name) is None]


def find_errors(prediction: DataSample, truth: DataSample, task: Task | None = None,
                score_threshold: float = 0.3, ignore_index: int = IGNORE) -> ItemErrors | None:
    """Compare a prediction with its truth.

    Args:
        prediction: of the same pixels as the truth.
        truth: what it should be.
        task: what to compare; by default ``task_of`` both.
        score_threshold: objects with a smaller score are judged, but not counted.
        ignore_index: value of a true semantic map, besides 255, that counts for nothing.

    Returns:
        ``None`` where there is nothing to compare. The severity is, for objects and segments, the
        number of errors (of equal ones more certain errors are worse); for semantic maps 1 minus
        the mean IoU of the classes of the image; for labels by how much the likeliest wrong
        class is ahead of the true one, from -1 to 1.

    Raises:
        ValueError: if a side has not what ``task`` compares, or their sizes differ.
    """
    found = task if task is not None else task_of(prediction, truth)
    if found is None:
        return None
    if found not in TASKS:
        raise ValueError(f'task must be one of {", ".join(TASKS)}, got {found!r}')
    for side, sample in (('prediction', prediction), ('truth', truth)):
        missing = missing_fields(sample, found)
        if missing:
            raise ValueError(f'the {side} of {_name(truth)} has no {" and no ".join(missing)}, '
                             f'which the task {found!r} compares')
    if found == 'classification':
        return _label_errors(prediction, truth)
    if found == 'semantic':
        return _pixel_errors(prediction, truth, ignore_index)
    return _object_errors(prediction, truth, found, score_threshold)


def judge_objects(ious: Tensor, labels: Tensor, true_labels: Tensor, scores: Tensor,
                  is_crowd: Tensor | None = None, is_excused: Tensor | None = None,
                  foreground: float = FOREGROUND, background: float = BACKGROUND,
                  ) -> tuple[list[Verdict], list[Verdict]]:
    """Decide what became of each predicted and of each true object.

    Where several kinds fit, the place comes before the class and the class before a duplicate, as
    in TIDE's own program.

    Args:
        ious: overlaps, (P, T).
        labels: predicted classes, (P,).
        true_labels: (T,).
        scores: confidence of the predictions, (P,).
        is_crowd: true objects that need not be found and find nothing, (T,).
        is_excused: predictions that are no error if they find nothing, (P,).
        foreground: overlap from which on a prediction finds an object.
        background: overlap below which it comes near none.
    """
    crowd_T = torch.zeros(len(true_labels), dtype=torch.bool) if is_crowd is None else is_crowd
    same_PT = (labels[:, None] == true_labels) & ~crowd_T
    other_PT = (labels[:, None] != true_labels) & ~crowd_T
    truths = [Verdict(IGNORED if crowd else 'missed') for crowd in crowd_T.tolist()]
    verdicts = [Verdict('background') for _ in range(len(labels))]
    for p in scores.argsort(descending=True, stable=True).tolist():
        score = float(scores[p])
        free = same_PT[p] & torch.tensor([t.found_at < 0 for t in truths], dtype=torch.bool)
        iou, t = _best(ious[p], free)
        if t >= 0 and iou >= foreground:
            verdicts[p] = Verdict(RIGHT, t, iou)
            truths[t] = Verdict(RIGHT, p, iou, found_at=score, covered_at=truths[t].covered_at)
            continue
        verdict = _false_alarm(ious[p], same_PT[p], other_PT[p], foreground, background)
        if is_excused is not None and is_excused[p]:
            verdict.kind = IGNORED
        elif verdict.kind in ('class', 'location'):
            near = truths[verdict.partner]
            near.covered_at = max(near.covered_at, score)
            if near.kind == 'missed':
                near.kind, near.partner, near.iou = COVERED, p, verdict.iou
        verdicts[p] = verdict
    return verdicts, truths


def _false_alarm(iou_T: Tensor, same_T: Tensor, other_T: Tensor, foreground: float,
                 background: float) -> Verdict:
    same, same_index = _best(iou_T, same_T)
    other, other_index = _best(iou_T, other_T)
    if background <= same < foreground:
        return Verdict('location', same_index, same)
    if other >= foreground:
        return Verdict('class', other_index, other)
    if same >= foreground:
        return Verdict('duplicate', same_index, same)
    if other >= background:
        return Verdict('both', other_index, other)
    return Verdict('background', -1, max(same, other, 0.0))


def _best(iou_T: Tensor, allowed_T: Tensor) -> tuple[float, int]:
    if not bool(allowed_T.any()):
        return -1.0, -1
    value, index = iou_T.masked_fill(~allowed_T, -1).max(0)
    return float(value), int(index)


def count_at(errors: ItemErrors, scores: Tensor | None, threshold: float) -> dict[str, int]:
    """Errors of each kind among objects, if predictions below a threshold are left out.

    Args:
        errors: of a task with objects.
        scores: of the predictions, (P,); ``None`` counts as 1.
        threshold: smallest score that counts.
    """
    counted = [1.0] * len(errors.predicted) if scores is None else scores.tolist()
    counts = Counter(v.kind for v, s in zip(errors.predicted, counted) if s >= threshold)
    counts['missed'] = sum(t.kind != IGNORED and max(t.found_at, t.covered_at) < threshold
                           for t in errors.truths)
    return {kind: counts[kind] for kind in KINDS[errors.task] if counts[kind]}


def _object_errors(prediction: DataSample, truth: DataSample, task: Task,
                   threshold: float) -> ItemErrors:
    is_excused = None
    if task == 'panoptic':
        assert truth.panoptic_map is not None
        without_truth = truth.panoptic_map == 0
        prediction, truth = segments_as_objects(prediction), segments_as_objects(truth)
        ious_PT, is_excused = _segment_overlaps(prediction, truth, without_truth)
    else:
        ious_PT, within_PT = object_overlaps(prediction, truth, by_mask=task == 'instance')
        if truth.is_crowd is not None and bool(truth.is_crowd.any()):
            is_excused = (_same(prediction, truth) & truth.is_crowd
                          & (within_PT >= FOREGROUND)).any(1)
    assert prediction.labels is not None and truth.labels is not None
    scores = prediction.scores
    counted = torch.ones(len(prediction.labels)) if scores is None else scores.float().nan_to_num(0)
    verdicts, truths = judge_objects(
        ious_PT, prediction.labels, truth.labels, counted, truth.is_crowd, is_excused,
        foreground=_ABOVE_HALF if task == 'panoptic' else FOREGROUND)
    errors = ItemErrors(task, 0.0, 0.0, {}, verdicts, truths)
    errors.counts = count_at(errors, scores, threshold)
    shown = [(v, s) for v, s in zip(verdicts, counted.tolist()) if s >= threshold]
    wrong = sum(s for v, s in shown if v.kind not in (RIGHT, IGNORED))
    errors.severity = sum(errors.counts.values()) + _TIE * wrong
    hits = [v.iou if task == 'panoptic' else 1.0 for v, _ in shown if v.kind == RIGHT]
    alarms = sum(v.kind not in (RIGHT, IGNORED) for v, _ in shown)
    lost = sum(t.kind != IGNORED and t.found_at < threshold for t in truths)
    counted_all = len(hits) + (alarms + lost) / 2
    errors.quality = sum(hits) / counted_all if counted_all else 1.0
    return errors


def object_overlaps(prediction: DataSample, truth: DataSample,
                    by_mask: bool = False) -> tuple[Tensor, Tensor]:
    """Overlaps of all pairs, and the share of each prediction that lies within a true object.

    Returns:
        IoU, (P, T), and intersection over the prediction's own area, (P, T).

    Raises:
        ValueError: if masks of the two differ in size.
    """
    if not by_mask:
        assert prediction.boxes is not None and truth.boxes is not None
        first, second = prediction.boxes.float(), truth.boxes.float()
        iou_PT, own_P = box_iou(first, second), box_area(first)
        inter_PT = iou_PT * (own_P[:, None] + box_area(second)) / (1 + iou_PT)
        return iou_PT, inter_PT / own_P[:, None].clamp(min=1e-12)
    inter_PT, own_P, true_T = _mask_areas(prediction, truth)
    union_PT = own_P[:, None] + true_T - inter_PT
    return inter_PT / union_PT.clamp(min=1), inter_PT / own_P[:, None].clamp(min=1)


def _segment_overlaps(prediction: DataSample, truth: DataSample,
                      without_truth: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of segments where pixels without truth count for neither; who is excused, (P,)."""
    inter_PT, own_P, true_T = _mask_areas(prediction, truth)
    assert prediction.masks is not None
    void_P = (prediction.masks & without_truth).float().sum((1, 2))
    union_PT = (own_P - void_P)[:, None] + true_T - inter_PT
    crowd_T = truth.is_crowd if truth.is_crowd is not None else torch.zeros(len(true_T)).bool()
    on_crowd_P = (inter_PT * (_same(prediction, truth) & crowd_T)).sum(1)
    return inter_PT / union_PT.clamp(min=1), (void_P + on_crowd_P) * 2 > own_P


def _mask_areas(prediction: DataSample, truth: DataSample) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in common (P, T), and of each mask, (P,) and (T,)."""
    assert prediction.masks is not None and truth.masks is not None
    if prediction.masks.shape[1:] != truth.masks.shape[1:]:
        raise ValueError(f'masks of {_name(truth)} are {tuple(truth.masks.shape[1:])}, but those '
                         f'of its prediction {tuple(prediction.masks.shape[1:])}')
    flat_P, flat_T = prediction.masks.bool().flatten(1), truth.masks.bool().flatten(1)
    floats_T = flat_T.float()
    inter, own = [torch.zeros(0, len(flat_T))], [torch.zeros(0)]
    # In parts, so that a hundred masks of a photo do not stand in memory as floats at once.
    for part in flat_P.split(16) if len(flat_P) else ():
        floats = part.float()  # sums of floats are many times faster than those of bools
        inter.append(floats @ floats_T.T)
        own.append(floats.sum(1))
    return torch.cat(inter), torch.cat(own), floats_T.sum(1)


def _same(prediction: DataSample, truth: DataSample) -> Tensor:
    assert prediction.labels is not None and truth.labels is not None
    return prediction.labels[:, None] == truth.labels


def _pixel_errors(prediction: DataSample, truth: DataSample, ignore_index: int) -> ItemErrors:
    guess, true = prediction.semantic_map, truth.semantic_map
    assert guess is not None and true is not None
    if guess.shape != true.shape:
        raise ValueError(f'the truth of {_name(truth)} is {tuple(true.shape)}, but its prediction '
                         f'{tuple(guess.shape)}')
    known = (true != IGNORE) & (true != ignore_index)
    wrong = known & (guess != true)
    in_truth, predicted = true[known].unique(), guess[known & (guess != IGNORE)].unique()
    regions: list[Region] = []
    lost, new = ~torch.isin(true, predicted), ~torch.isin(guess, in_truth)
    nothing = guess == IGNORE
    kinds = {'nothing': nothing, 'missed': lost & ~new & ~nothing, 'invented': new & ~lost
             & ~nothing, 'border': near_border(true) & ~lost & ~new & ~nothing}
    taken = torch.zeros_like(wrong)
    for kind, where in kinds.items():
        regions += _regions(kind, wrong & where, true, guess)
        taken |= where
    regions += _regions('confused', wrong & ~taken, true, guess)
    regions.sort(key=lambda r: -r.pixels)
    counts: Counter[str] = Counter()
    for region in regions:
        counts[region.kind] += region.pixels
    ious = {int(k): _class_iou(true == k, (guess == k) & known)
            for k in torch.cat([in_truth, predicted]).unique()}
    quality = sum(ious.values()) / len(ious) if ious else 1.0

    def verdicts(sample: DataSample, others: Tensor, kind: str) -> list[Verdict]:
        labels = classes_as_objects(sample, ignore_index).labels
        assert labels is not None
        return [Verdict(RIGHT if k in others else kind, iou=ious.get(k, 0.0))
                for k in labels.tolist()]

    return ItemErrors(
        'semantic', 1 - quality, quality, {k: counts[k] for k in KINDS['semantic'] if counts[k]},
        verdicts(prediction, in_truth, 'invented'), verdicts(truth, predicted, 'missed'),
        _merge_small(regions))


def near_border(semantic_map: Tensor, share: float = 0.01) -> Tensor:
    """Pixels close to where the class changes, (H, W) bool.

    Args:
        semantic_map: (H, W).
        share: what is close, as a part of the diagonal; one pixel at least.
    """
    height, width = semantic_map.shape
    reach = max(1, round(share * (height**2 + width**2) ** 0.5))
    values = semantic_map[None, None].float()
    window = 2 * reach + 1
    high = functional.max_pool2d(values, window, 1, reach)
    low = -functional.max_pool2d(-values, window, 1, reach)
    return (high != low)[0, 0]


def _class_iou(true: Tensor, guess: Tensor) -> float:
    return float((true & guess).sum() / (true | guess).sum().clamp(min=1))


def _regions(kind: str, where: Tensor, true: Tensor, guess: Tensor) -> list[Region]:
    """Split wrong pixels by their true and their predicted class."""
    regions = []
    for pair in torch.stack([true[where], guess[where]], dim=1).unique(dim=0).tolist():
        mask = where & (true == pair[0]) & (guess == pair[1])
        predicted = -1 if pair[1] == IGNORE else pair[1]
        regions.append(Region(kind, pair[0], predicted, int(np.count_nonzero(mask.numpy())), mask))
    return regions


def _merge_small(regions: list[Region]) -> list[Region]:
    """Keep the largest regions; the others are one for each kind."""
    kept, rest = regions[:_LARGEST_REGIONS], regions[_LARGEST_REGIONS:]
    merged: dict[str, Region] = {}
    for region in rest:
        into = merged.setdefault(
            region.kind, Region(region.kind, -1, -1, 0, torch.zeros_like(region.mask)))
        into.pixels += region.pixels
        into.mask |= region.mask
    return kept + list(merged.values())


def _label_errors(prediction: DataSample, truth: DataSample) -> ItemErrors:
    probs = prediction.label_probs
    label, true = _label(prediction), _label(truth)
    if probs is None or probs.ndim != 1 or not 0 <= max(label, true) < len(probs):
        wrong = label != true
        counts = {'mistake': 1} if wrong else {}
        return ItemErrors('classification', float(wrong), float(not wrong), counts,
                          [Verdict('mistake' if wrong else RIGHT)])
    probs = probs.float().nan_to_num(0)  # of a training that diverged
    others = probs.clone()
    others[true] = -1
    margin = float(others.max() - probs[true])
    kind = RIGHT
    if label != true:
        ahead = int((others > probs[true]).sum())
        kind = 'confident' if float(probs[label]) >= CONFIDENT else (
            'near' if ahead <= 1 else 'mistake')
    return ItemErrors('classification', margin, float(probs[true]),
                      {} if kind == RIGHT else {kind: 1}, [Verdict(kind)])


def _label(sample: DataSample) -> int:
    if sample.label is not None:
        return int(sample.label)
    assert sample.label_probs is not None
    return int(sample.label_probs.argmax())


def _name(sample: DataSample) -> str:
    return str(sample.meta.get('img_path') or sample.meta.get('img_id', 'a sample'))
