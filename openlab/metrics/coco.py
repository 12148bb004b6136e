"""Average precision as COCO defines it, of boxes and of masks.

N objects of an image · K classes
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.registry import METRICS
from openlab.structures.boxes import box_area, xyxy_to_xywh
from openlab.structures.data_sample import DataSample
from openlab.structures.geometry import to_original

Kind = Literal['box', 'mask']
_IOU_TYPES = {'box': 'bbox', 'mask': 'segm'}
_AREAS = ('all', 'small', 'medium', 'large')
# The twelve numbers in the order of COCO's table: name, IoU threshold, area, place in max_dets.
_TABLE: tuple[tuple[str, float | None, str, int], ...] = (
    ('AP', None, 'all', 2), ('AP50', 0.5, 'all', 2), ('AP75', 0.75, 'all', 2),
    ('AP_small', None, 'small', 2), ('AP_medium', None, 'medium', 2),
    ('AP_large', None, 'large', 2),
    ('AR1', None, 'all', 0), ('AR10', None, 'all', 1), ('AR100', None, 'all', 2),
    ('AR_small', None, 'small', 2), ('AR_medium', None, 'medium', 2),
    ('AR_large', None, 'large', 2),
)  # fmt: skip
_MAX_DETS = (1, 10, 100)


@dataclass
class _Objects:
    """Objects of one image in its original pixels; masks as COCO's compressed run lengths."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    is_crowd: np.ndarray | None = None
    areas: np.ndarray | None = None
    masks: list[bytes] | None = None


@dataclass
class _Image:
    size: tuple[int, int]
    found: _Objects
    truth: _Objects | None = None


@dataclass
class CocoResult:
    """What was computed of one kind.

    Attributes:
        numbers: the twelve numbers of COCO's table by name; -1 where no object is that large.
        per_class: AP of each class by name; -1 for classes without an object.
        table: the twelve numbers, line by line as COCO's own program prints them.
    """

    numbers: dict[str, float]
    per_class: dict[str, float]
    table: str = field(repr=False, default='')


@METRICS.register_module()
class CocoMetric(Metric):
    """COCO's average precision and recall, computed by ``faster-coco-eval``.

    Predictions are brought back to the original image before they are compared. Without
    ``ann_file`` the truth is what the samples hold, brought back as well; that is right for any
    dataset, but differs in the last digits where a pipeline drops or cuts objects. The areas
    that decide between small, medium and large are ``sample.extra['areas']``, else those of the
    masks, else those of the boxes.

    State is bounded: at most 100 detections of each image and class, masks as run lengths.

    Args:
        kinds: what to compare, ``'box'`` and ``'mask'``.
        ann_file: COCO's JSON with the truth; gives exactly the numbers of the benchmark.
        per_class: whether the results name every class as well.
        out_prefix: where to write detections in COCO's format, to ``<out_prefix>.bbox.json``
            and ``<out_prefix>.segm.json``.
        name: prefix of the result names.

    Attributes:
        results: of each kind, after ``compute``.
    """

    name = 'coco'

    def __init__(
        self,
        kinds: Sequence[Kind] = ('box',),
        ann_file: str | None = None,
        per_class: bool = False,
        out_prefix: str | None = None,
        name: str | None = None,
    ):
        if not kinds or any(kind not in _IOU_TYPES for kind in kinds):
            raise ValueError(f"kinds must be some of 'box' and 'mask', got {list(kinds)}")
        self.kinds, self.per_class = tuple(kinds), per_class
        self.ann_file, self.out_prefix = ann_file, out_prefix
        self.results: dict[str, CocoResult] = {}
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.images: dict[Any, _Image] = {}

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Keep the detections of a batch, and its truth unless a file has it."""
        for prediction, sample in zip(predictions, samples, strict=True):
            image_id = sample.meta.get('img_id')
            if image_id is None:
                raise ValueError("CocoMetric needs meta['img_id'] of every sample")
            found = to_original(prediction)
            if found.boxes is None or found.scores is None or found.labels is None:
                raise ValueError(f'the prediction for image {image_id} has no boxes, scores or '
                                 'labels: CocoMetric is for detectors')
            height, width = sample.meta['ori_shape'][:2]
            truth = None
            if self.ann_file is None:
                truth = self._objects(to_original(sample), image_id)
            objects = _best(self._objects(found, image_id))
            self.images[image_id] = _Image((int(height), int(width)), objects, truth)

    def compute(self) -> dict[str, float]:
        """The twelve numbers of each kind, such as ``box_AP`` and ``mask_AP50``."""
        if not self.images:
            raise ValueError('CocoMetric has seen no image: is the evaluation dataset empty?')
        coco, evaluator = _library()
        categories = self._categories()
        truth = coco(self._truth(categories))
        flat: dict[str, float] = {}
        for kind in self.kinds:
            detections = self.detections(kind)
            if self.out_prefix is not None:
                _write(f'{self.out_prefix}.{_IOU_TYPES[kind]}.json', detections)
            found = coco({
                'images': truth.dataset['images'], 'categories': truth.dataset['categories'],
                'annotations': self._complete(detections, kind)})
            run = evaluator(truth, found, _IOU_TYPES[kind], print_function=_say_nothing)
            run.params.imgIds = list(self._image_numbers().values())
            run.params.catIds = list(categories)
            run.evaluate()
            run.accumulate()
            result = _summarize(run, list(categories.values()))
            self.results[kind] = result
            print_log(f'{kind} AP over {len(self.images)} images:\n{result.table}\n'
                      f'{_class_table(result.per_class)}', logger='current')
            flat |= {f'{kind}_{k}': v for k, v in result.numbers.items()}
            if self.per_class:
                flat |= {f'{kind}_AP_{k}': v for k, v in result.per_class.items()}
        return flat

    def detections(self, kind: Kind = 'box') -> list[dict[str, Any]]:
        """All that was detected, as COCO's servers want it.

        Args:
            kind: ``'box'`` writes ``bbox``, ``'mask'`` writes ``segmentation``.
        """
        ids = self._category_ids()
        rows = []
        for image_id, image in self.images.items():
            found = image.found
            assert found.scores is not None
            boxes = _xywh(found.boxes)
            for i, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist())):
                row = {'image_id': image_id, 'category_id': ids[label], 'score': score}
                if kind == 'box':
                    row['bbox'] = boxes[i]
                else:
                    row['segmentation'] = _rle(found, i, image.size)
                rows.append(row)
        return rows

    def state(self) -> dict[Any, _Image]:
        """What was kept of each image."""
        return self.images

    def merge(self, states: list[dict[Any, _Image]]) -> None:
        """Put the images of all processes together; of one that two have seen, take the first."""
        merged: dict[Any, _Image] = {}
        for state in states:
            for image_id, image in state.items():
                merged.setdefault(image_id, image)
        self.images = merged

    def _objects(self, sample: DataSample, image_id: Any) -> _Objects:
        if sample.boxes is None or sample.labels is None:
            raise ValueError(f'image {image_id} has no boxes or labels to compare with; give '
                             'ann_file, or load annotations in the pipeline')
        masks = None
        if 'mask' in self.kinds:
            if sample.masks is None:
                raise ValueError(f'image {image_id} has no masks; CocoMetric has '
                                 f'kinds={list(self.kinds)}')
            masks = encode_masks(sample.masks)
        areas = sample.extra.get('areas')
        if areas is None:
            areas = box_area(sample.boxes) if sample.masks is None else sample.masks.sum((1, 2))
        return _Objects(
            sample.boxes.numpy(), sample.labels.numpy(),
            None if sample.scores is None else sample.scores.numpy(),
            None if sample.is_crowd is None else sample.is_crowd.numpy(),
            np.asarray(areas, dtype=np.float64), masks)

    def _category_ids(self) -> list[int]:
        """Id of each class in COCO's files."""
        known = self.dataset_meta.get('category_ids')
        if known is not None:
            return [int(i) for i in known]
        return list(range(1, self._num_classes() + 1))

    def _num_classes(self) -> int:
        classes = self.dataset_meta.get('classes')
        if classes:
            return len(classes)
        images = self.images.values()
        parts = [part for i in images for part in (i.found, i.truth) if part is not None]
        return max((int(p.labels.max()) + 1 for p in parts if len(p.labels)), default=1)

    def _categories(self) -> dict[int, str]:
        ids = self._category_ids()
        names = self.dataset_meta.get('classes') or [str(i) for i in ids]
        for image_id, image in self.images.items():
            for part in (image.found, image.truth):
                if part is not None and len(part.labels) and part.labels.max() >= len(ids):
                    raise ValueError(f'label {part.labels.max()} of image {image_id} is not below '
                                     f'the number of classes, {len(ids)}')
        return dict(sorted(zip(ids, names, strict=True)))

    def _image_numbers(self) -> dict[Any, int]:
        """A whole number for each image: its own where all have one."""
        if all(isinstance(i, (int, np.integer)) for i in self.images):
            return {i: int(i) for i in self.images}
        if self.ann_file is not None:
            raise ValueError(f'images of COCO files have whole numbers as ids, but there is '
                             f'{next(iter(self.images))!r}; leave ann_file out')
        return {image_id: n for n, image_id in enumerate(self.images, start=1)}

    def _truth(self, categories: Mapping[int, str]) -> dict[str, Any]:
        if self.ann_file is not None:
            return _read(self.ann_file, self._image_numbers())
        numbers, ids = self._image_numbers(), self._category_ids()
        images: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for image_id, image in self.images.items():
            height, width = image.size
            images.append({'id': numbers[image_id], 'height': height, 'width': width})
            truth = image.truth
            assert truth is not None and truth.areas is not None
            crowd = truth.is_crowd if truth.is_crowd is not None else np.zeros(len(truth.labels))
            boxes = _xywh(truth.boxes)
            for i, label in enumerate(truth.labels.tolist()):
                row = {
                    'id': len(rows) + 1, 'image_id': numbers[image_id], 'bbox': boxes[i],
                    'category_id': ids[label], 'area': float(truth.areas[i]),
                    'iscrowd': int(crowd[i]),
                }
                if truth.masks is not None:
                    row['segmentation'] = _rle(truth, i, image.size)
                rows.append(row)
        named = [{'id': i, 'name': name} for i, name in categories.items()]
        return {'images': images, 'annotations': rows, 'categories': named}

    def _complete(self, detections: list[dict[str, Any]], kind: Kind) -> list[dict[str, Any]]:
        """Detections as annotations: numbered, with areas of boxes or of masks."""
        numbers = self._image_numbers()
        rows = []
        areas = (a for image in self.images.values() for a in _areas(image.found, kind))
        for n, (row, area) in enumerate(zip(detections, areas, strict=True), start=1):
            more = {'id': n, 'image_id': numbers[row['image_id']], 'area': area, 'iscrowd': 0}
            rows.append({**row, **more})
        return rows


def encode_masks(masks: Tensor) -> list[bytes]:
    """Masks (N, H, W) as COCO's compressed run lengths."""
    from faster_coco_eval import mask as run_lengths

    if not len(masks):
        return []
    columns_first = np.asfortranarray(masks.numpy().astype(np.uint8).transpose(1, 2, 0))
    return [rle['counts'] for rle in run_lengths.encode(columns_first)]


def _library() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError('CocoMetric needs faster-coco-eval: pip install faster-coco-eval'
                          ) from error
    return COCO, COCOeval_faster


def _say_nothing(*_: Any) -> None:
    """Swallow the library's progress messages."""


def _best(objects: _Objects) -> _Objects:
    """The most certain 100 of each class, in their old order; COCO looks at no more."""
    scores = objects.scores
    assert scores is not None
    if len(scores) <= _MAX_DETS[-1]:
        return objects
    order = np.argsort(-scores, kind='stable')
    keep: list[int] = []
    for label in np.unique(objects.labels):
        keep += order[objects.labels[order] == label][: _MAX_DETS[-1]].tolist()
    keep.sort()
    masks = None if objects.masks is None else [objects.masks[i] for i in keep]
    assert objects.areas is not None
    return _Objects(objects.boxes[keep], objects.labels[keep], scores[keep],
                    areas=objects.areas[keep], masks=masks)


def _areas(objects: _Objects, kind: Kind) -> list[float]:
    if kind == 'mask':
        assert objects.areas is not None
        return objects.areas.tolist()
    return [w * h for _, _, w, h in _xywh(objects.boxes)]


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    """Corner and size with the precision of the float64 numbers that a JSON file holds."""
    import torch

    return xyxy_to_xywh(torch.from_numpy(boxes).double()).tolist()


def _rle(objects: _Objects, index: int, size: tuple[int, int]) -> dict[str, Any]:
    assert objects.masks is not None
    return {'size': list(size), 'counts': objects.masks[index].decode('ascii')}


def _read(ann_file: str, images: Mapping[Any, int]) -> dict[str, Any]:
    data = json.loads(Path(ann_file).read_text('utf-8'))
    known = {image['id'] for image in data['images']}
    for number in images.values():
        if number not in known:
            raise ValueError(f'image {number} is not in {ann_file}; is it the file of this split?')
    seen = set(images.values())
    data['images'] = [i for i in data['images'] if i['id'] in seen]
    data['annotations'] = [a for a in data['annotations'] if a['image_id'] in seen]
    # 0 also means "not matched" to the library.
    for n, row in enumerate(data['annotations'], start=1):
        row['id'] = n
    return data


def _write(path: str, rows: list[dict[str, Any]]) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows), 'utf-8')


def _summarize(run: Any, names: Sequence[str]) -> CocoResult:
    numbers, lines = {}, []
    for name, iou, area, place in _TABLE:
        is_precision = name.startswith('AP')
        values = np.asarray(run.eval['precision' if is_precision else 'recall'])
        values = values[..., _AREAS.index(area), place]
        if iou is not None:
            values = values[np.isclose(run.params.iouThrs, iou)]
        numbers[name] = _mean(values)
        title = 'Average Precision  (AP)' if is_precision else 'Average Recall     (AR)'
        shown = '0.50:0.95' if iou is None else f'{iou:0.2f}'
        lines.append(f' {title} @[ IoU={shown:<9} | area={area:>6s} | '
                     f'maxDets={_MAX_DETS[place]:>3d} ] = {numbers[name]:0.3f}')
    precision = np.asarray(run.eval['precision'])[..., 0, -1]
    per_class = {name: _mean(precision[:, :, k]) for k, name in enumerate(names)}
    return CocoResult(numbers, per_class, '\n'.join(lines))


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _class_table(per_class: Mapping[str, float]) -> str:
    width = max(map(len, per_class), default=0)
    return '\n'.join(f' {name:<{width}}  ' + (f'{value:0.3f}' if value > -1 else 'no object')
                     for name, value in per_class.items())
