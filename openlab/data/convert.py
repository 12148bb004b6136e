"""From one layout of boxes to another: COCO, VOC and YOLO."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from openlab.data.datasets.detection import DetectionDataset
from openlab.data.errors import DataError, Dropped
from openlab.data.generate.folder import announce, make_folder
from openlab.data.layout import recognise
from openlab.structures.masks import mask_to_polygons, rle_to_mask

Parts = dict[str, DetectionDataset]


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        num_images: by part.
        num_objects: by part.
        dropped: what the source's reader left out, or the target cannot hold.
        notes: what is lost for the whole set.
    """

    num_images: dict[str, int]
    num_objects: dict[str, int]
    dropped: list[Dropped]
    notes: list[str]


def convert(source: str | Path, out: str | Path, target: str,
            say: Callable[[str], None] = announce) -> Report:
    """Convert a folder of boxes; images are copied.

    Args:
        source: a folder in a known layout.
        out: the folder to make; made whole or not at all.
        target: ``coco``, ``voc`` or ``yolo``.
        say: takes messages for the user.

    Raises:
        DataError: if the source has no boxes, or ``out`` holds something else.
    """
    if target not in WRITERS:
        raise ValueError(f'target must be one of {", ".join(WRITERS)}, got {target!r}')
    layout = recognise(source)
    if not issubclass(layout.dataset, DetectionDataset):
        raise DataError(f'{source} is of the kind {layout.kind!r}, which has no boxes to convert')
    parts: Parts = {}
    for part in layout.parts:
        dataset = layout.open(part)
        assert isinstance(dataset, DetectionDataset)
        parts[part] = dataset
    report = Report({p: len(d) for p, d in parts.items()},
                    {p: sum(map(len, d.labels())) for p, d in parts.items()},
                    [d for dataset in parts.values() for d in dataset.dropped], list(layout.notes))
    settings = {'kind': 'converted', 'source': str(layout.root.resolve()), 'target': target}
    made = make_folder(out, settings, f'{target} of {layout.kind} {source},',
                       lambda folder: WRITERS[target](folder, parts, report), say)
    if not made:
        say(f'{out} is complete already')
    return report


def write_coco(folder: Path, parts: Parts, report: Report) -> None:
    """``images/PART`` and ``annotations/instances_PART.json``."""
    (folder / 'annotations').mkdir()
    for part, dataset in parts.items():
        (folder / 'images' / part).mkdir(parents=True)
        names = _unique_names({part: dataset})
        ids = dataset.metainfo.get('category_ids') or range(1, len(_classes(dataset)) + 1)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        is_numbered = min(dataset.table.column('img_id')) > 0
        for index in range(len(dataset)):
            record = dataset.get_info(index)
            image_id = record['img_id'] if is_numbered else index + 1
            name = names[part, index]
            shutil.copy2(dataset.data_root / record['img_path'], folder / 'images' / part / name)
            images.append({'id': image_id, 'file_name': name, 'height': record['height'],
                           'width': record['width']})
            for place, (box, label) in enumerate(zip(record['boxes'], record['labels'])):
                x1, y1, x2, y2 = (_short(v) for v in box)
                annotation = {
                    'id': len(annotations) + 1, 'image_id': image_id,
                    'category_id': ids[int(label)],
                    'bbox': [x1, y1, _short(x2 - x1), _short(y2 - y1)],
                    'area': _short(record['areas'][place]),
                    'iscrowd': int(record['is_crowd'][place])}
                if 'segmentation' in record:
                    annotation['segmentation'] = record['segmentation'][place]
                annotations.append(annotation)
        content = {'images': images, 'annotations': annotations, 'categories': [
            {'id': i, 'name': n} for i, n in zip(ids, _classes(dataset))]}
        file = folder / 'annotations' / f'instances_{part}.json'
        file.write_text(json.dumps(content), encoding='utf-8')


def write_voc(folder: Path, parts: Parts, report: Report) -> None:
    """``Annotations``, ``JPEGImages``, ``ImageSets/Main`` and, as XML has no list, classes.txt."""
    for name in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (folder / name).mkdir(parents=True)
    names = _unique_names(parts)
    for part, dataset in parts.items():
        classes = _classes(dataset)
        stems = []
        if 'segmentation' in dataset.table.columns:
            report.notes.append(f'{part}: VOC files have no masks; only boxes are written')
        for index in range(len(dataset)):
            record = dataset.get_info(index)
            name = names[part, index]
            stems.append(Path(name).stem)
            shutil.copy2(dataset.data_root / record['img_path'], folder / 'JPEGImages' / name)
            rows = [_voc_object(classes[int(label)], box, bool(crowd)) for label, box, crowd in
                    zip(record['labels'], record['boxes'], record['is_crowd'])]
            (folder / 'Annotations' / f'{stems[-1]}.xml').write_text(
                f'<annotation>\n <filename>{escape(name)}</filename>\n <size><width>'
                f'{record["width"]}</width><height>{record["height"]}</height><depth>3</depth>'
                f'</size>\n{"".join(rows)}</annotation>\n', encoding='utf-8')
        (folder / 'ImageSets' / 'Main' / f'{part}.txt').write_text('\n'.join(stems) + '\n',
                                                                   encoding='utf-8')
        (folder / 'classes.txt').write_text('\n'.join(classes) + '\n', encoding='utf-8')


def _voc_object(name: str, box: Sequence[float], ignored: bool) -> str:
    # Pixels count from 1 there, and the last one belongs to the object.
    x1, y1, x2, y2 = (_short(v) for v in box)
    corners = zip(('xmin', 'ymin', 'xmax', 'ymax'), (_short(x1 + 1), _short(y1 + 1), x2, y2))
    inner = ''.join(f'<{k}>{v}</{k}>' for k, v in corners)
    return (f' <object><name>{escape(name)}</name><difficult>{int(ignored)}</difficult>'
            f'<bndbox>{inner}</bndbox></object>\n')


def write_yolo(folder: Path, parts: Parts, report: Report) -> None:
    """``images/PART``, ``labels/PART`` and ``data.yaml``."""
    import yaml

    for part, dataset in parts.items():
        for kind in ('images', 'labels'):
            (folder / kind / part).mkdir(parents=True)
        names = _unique_names({part: dataset})
        outlines = _has_outlines(dataset)
        if not outlines and 'segmentation' in dataset.table.columns:
            report.notes.append(f'{part}: some masks have holes or several parts, which YOLO '
                                f'files cannot hold; only boxes are written')
        for index in range(len(dataset)):
            record = dataset.get_info(index)
            name = names[part, index]
            shutil.copy2(dataset.data_root / record['img_path'], folder / 'images' / part / name)
            lines = []
            for place, (box, label) in enumerate(zip(record['boxes'], record['labels'])):
                if record['is_crowd'][place]:
                    report.dropped.append(Dropped(dataset.source(index),
                                                  'YOLO files have no crowds'))
                    continue
                size = record['width'], record['height']
                outline = _outline(record['segmentation'][place]) if outlines else None
                lines.append(f'{int(label)} ' + _yolo_numbers(box, outline, size))
            (folder / 'labels' / part / name).with_suffix('.txt').write_text(
                ''.join(f'{line}\n' for line in lines), encoding='utf-8')
    content = {'path': '.', **{part: f'images/{part}' for part in parts},
               'names': dict(enumerate(_classes(next(iter(parts.values())))))}
    (folder / 'data.yaml').write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')


def _yolo_numbers(box: Sequence[float], outline: list[float] | None,
                  size: tuple[int, int]) -> str:
    width, height = size
    if outline is not None:
        values = [v / (height if i % 2 else width) for i, v in enumerate(outline)]
    else:
        x1, y1, x2, y2 = map(float, box)
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width,
                  (y2 - y1) / height]
    return ' '.join(f'{v:.8g}' for v in values)


def _has_outlines(dataset: DetectionDataset) -> bool:
    if 'segmentation' not in dataset.table.columns:
        return False
    return all(crowd or _outline(found) is not None
               for index in range(len(dataset))
               for record in [dataset.get_info(index)]
               for crowd, found in zip(record['is_crowd'], record['segmentation']))


def _outline(segmentation: Any) -> list[float] | None:
    """The one polygon of a mask, if one tells it all."""
    polygons = mask_to_polygons(rle_to_mask(segmentation)) if isinstance(segmentation, dict) \
        else segmentation
    return polygons[0] if polygons is not None and len(polygons) == 1 else None


def _unique_names(parts: Parts) -> dict[tuple[str, int], str]:
    """A file name for each image; with the part and a number only where two would collide."""
    plain = {(part, index): Path(path).name for part, dataset in parts.items()
             for index, path in enumerate(dataset.table.column('img_path'))}
    stems = [Path(name).stem for name in plain.values()]
    if len(set(stems)) == len(stems):
        return plain
    named = {(part, index): f'{part}_{name}' for (part, index), name in plain.items()}
    stems = [Path(name).stem for name in named.values()]
    if len(set(stems)) == len(stems):
        return named
    return {(part, index): f'{part}_{index:06d}{Path(name).suffix}'
            for (part, index), name in plain.items()}


def _classes(dataset: DetectionDataset) -> tuple[str, ...]:
    return dataset.metainfo['classes']


def _short(value: float) -> float | int:
    """Three decimals of a pixel; whole numbers without any."""
    rounded = round(float(value), 3)
    return int(rounded) if rounded == int(rounded) else rounded


WRITERS: dict[str, Callable[[Path, Parts, Report], None]] = {
    'coco': write_coco, 'voc': write_voc, 'yolo': write_yolo}
