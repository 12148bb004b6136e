"""How a folder of data is laid out: COCO, VOC, YOLO, image/mask pairs or class folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openlab.data.class_names import class_difference
from openlab.data.datasets.base import IMAGE_SUFFIXES, BaseDataset, list_images, preview
from openlab.data.datasets.coco import CocoDataset
from openlab.data.datasets.image_folder import ImageFolder
from openlab.data.datasets.segmentation import SegmentationDataset
from openlab.data.datasets.voc import VocDataset
from openlab.data.datasets.yolo import YoloDataset
from openlab.data.errors import DataError
from openlab.data.reading import read_json, read_text
from openlab.data.transforms.loading import read_map

PARTS = ('train', 'val', 'test')
_PART_NAMES = {'train': ('train',), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}
_IMAGE_DIRS = ('images', 'img', 'imgs', 'JPEGImages')
_MASK_DIRS = ('masks', 'mask', 'semantic', 'SegmentationClass', 'labels', 'annotations')


@dataclass
class Layout:
    """What was recognised.

    Attributes:
        kind: ``coco``, ``voc``, ``yolo``, ``pairs`` or ``image-folder``.
        root: the folder that paths are relative to.
        dataset: class that reads it.
        parts: arguments of the dataset for each part that is there; ``train`` always is.
        classes: names in the order of the labels.
        notes: what a user should know.
    """

    kind: str
    root: Path
    dataset: type[BaseDataset]
    parts: dict[str, dict[str, Any]]
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def open(self, part: str, **more: Any) -> BaseDataset:
        """The dataset of one part."""
        return self.dataset(data_root=self.root, **self.parts[part], **more)


def recognise(folder: str | Path, kind: str | None = None) -> Layout:
    """Find out how a folder is laid out.

    Args:
        folder: where the data are.
        kind: only try this one.

    Raises:
        FileNotFoundError: if there is no such folder.
        DataError: if nothing fits; the message says what was looked for.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f'no such folder: {root}')
    if kind is not None and kind not in FINDERS:
        raise ValueError(f'kind must be one of {", ".join(FINDERS)}, got {kind!r}')
    for name, find in FINDERS.items():
        found = find(root) if kind in (None, name) else None
        if found is not None:
            if 'train' not in found.parts:  # a single part, whatever its name
                first = next(iter(found.parts))
                found.notes.append(f'there is no part for training; {first!r} is taken')
                found.parts = {'train': found.parts.pop(first), **found.parts}
            return found
    names = preview(sorted(p.name for p in root.iterdir())) or 'nothing'
    wanted = kind or 'any layout'
    raise DataError(
        f'{root} has not {wanted} that is known; it has {names}. Looked for: COCO '
        f'(*.json with images, annotations, categories), VOC (Annotations/*.xml and JPEGImages), '
        f'YOLO (images/ and labels/*.txt), pairs (images/ and masks/*.png), and class folders '
        f'(CLASS/*.jpg, or train/CLASS/*.jpg)')


def find_coco(root: Path) -> Layout | None:
    """JSON files in the folder, in ``annotations`` or beside the images of a part."""
    parts: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {}
    files = sorted(root.glob('*.json')) + sorted(root.glob('*/*.json'))
    for file in sorted(files, key=lambda f: 'instances' not in f.name):
        part = part_of(str(file.relative_to(root))) or 'train'
        if part in parts or file.name.startswith(('panoptic', 'captions')):
            continue
        content = read_json(file)
        if not isinstance(content, dict) or not all(
                isinstance(content.get(k), list) for k in ('images', 'annotations', 'categories')):
            continue
        if not content['images'] or not all('bbox' in a for a in content['annotations'][:1]):
            continue
        img_dir = _image_dir(root, file, part, content['images'][0].get('file_name', ''))
        parts[part] = {'ann_file': file.relative_to(root).as_posix(), 'img_dir': img_dir}
        categories = sorted(content['categories'], key=lambda c: c['id'])
        names[part] = [str(c['name']) for c in categories]
    if not parts:
        return None
    _compare_parts(root, names)
    return Layout('coco', root, CocoDataset, parts, tuple(next(iter(names.values()))))


def _image_dir(root: Path, file: Path, part: str, name: str) -> str:
    stem = file.stem.rpartition('_')[2]
    beside = file.parent.relative_to(root).as_posix()
    candidates = [f'images/{part}', f'images/{stem}', stem, part, 'images', beside, '']
    for candidate in candidates:
        if (root / candidate / name).is_file():
            return '' if candidate == '.' else candidate
    raise DataError(f'{file} names the image {name!r}, which is in none of '
                    f'{", ".join(repr(c) for c in candidates)} of {root}')


def find_voc(root: Path) -> Layout | None:
    """``Annotations`` of XML files, here or one or two folders below."""
    for folder in sorted({p.parent for pattern in ('', '*/', '*/*/')
                          for p in root.glob(f'{pattern}Annotations')}):
        img_dir = next((d for d in _IMAGE_DIRS if (folder / d).is_dir()), None)
        if img_dir is None or not any((folder / 'Annotations').glob('*.xml')):
            continue
        lists = folder / 'ImageSets' / 'Main'
        parts: dict[str, dict[str, Any]] = {
            part: {'ann_file': f'ImageSets/Main/{part}.txt'}
            for part in PARTS if (lists / f'{part}.txt').is_file()}
        parts = parts or {'train': {}}
        names = folder / 'classes.txt'
        if names.is_file():
            classes = tuple(n.strip() for n in read_text(names).splitlines() if n.strip())
        else:
            classes = VocDataset(None, folder, img_dir=img_dir).metainfo['classes']
        for arguments in parts.values():
            arguments.update(img_dir=img_dir, classes=list(classes))
        return Layout('voc', folder, VocDataset, parts, classes)
    return None


def find_yolo(root: Path) -> Layout | None:
    """``images`` and ``labels``, or ``train/images`` and ``train/labels``."""
    parts: dict[str, dict[str, Any]] = {}
    for part, names in _PART_NAMES.items():
        for name in names:
            for images, labels in ((f'images/{name}', f'labels/{name}'),
                                   (f'{name}/images', f'{name}/labels')):
                if (root / images).is_dir() and any((root / labels).glob('*.txt')):
                    parts.setdefault(part, {'img_dir': images, 'label_dir': labels})
    if not parts and (root / 'images').is_dir() and any((root / 'labels').glob('*.txt')):
        parts['train'] = {'img_dir': 'images', 'label_dir': 'labels'}
    if not parts:
        return None
    classes = YoloDataset(data_root=root, **next(iter(parts.values()))).metainfo['classes']
    return Layout('yolo', root, YoloDataset, parts, classes)


def find_pairs(root: Path) -> Layout | None:
    """A folder of images, and one of PNGs with the same names."""
    img_dir = next((d for d in _IMAGE_DIRS if (root / d).is_dir()), None)
    mask_dir = next((d for d in _MASK_DIRS if (root / d).is_dir()
                     and next((root / d).rglob('*.png'), None)), None)
    if img_dir is None or mask_dir is None:
        return None
    parts: dict[str, dict[str, Any]] = {}
    for part, names in _PART_NAMES.items():
        for name in names:
            if (root / img_dir / name).is_dir() and (root / mask_dir / name).is_dir():
                parts[part] = {'img_dir': f'{img_dir}/{name}', 'mask_dir': f'{mask_dir}/{name}'}
    parts = parts or {'train': {'img_dir': img_dir, 'mask_dir': mask_dir}}
    classes, notes = _mask_classes(root, next(iter(parts.values()))['mask_dir'])
    for arguments in parts.values():
        arguments['classes'] = list(classes)
    return Layout('pairs', root, SegmentationDataset, parts, classes, notes)


def _mask_classes(root: Path, mask_dir: str, most: int = 50) -> tuple[tuple[str, ...], list[str]]:
    file = root / 'classes.txt'
    if file.is_file():
        return tuple(n.strip() for n in read_text(file).splitlines() if n.strip()), []
    masks = [p for p in list_images(root / mask_dir) if p.suffix.lower() == '.png'][:most]
    values = sorted(set().union(*(np.unique(read_map(p)).tolist() for p in masks)) - {255})
    count = int(values[-1]) + 1 if values else 1
    note = (f'class names are made up: the values {values[0] if values else 0} to {count - 1} '
            f'occur in the first {len(masks)} masks of {mask_dir}; write the names into classes, '
            f'and a value that means "nothing" into ignore_index')
    return tuple(f'class_{i}' for i in range(count)), [note]


def find_image_folder(root: Path) -> Layout | None:
    """Class folders, in the folder itself or in folders of parts."""
    parts: dict[str, dict[str, Any]] = {}
    for part, names in _PART_NAMES.items():
        for name in names:
            if _has_class_folders(root / name):
                parts[part] = {'folder': name}
    if not parts and not folders_of_parts(root) and _has_class_folders(root):
        parts['train'] = {'folder': ''}
    if not parts:
        return None
    for part, folder in folders_of_parts(root).items():
        inner = _class_folders(folder)
        if part not in parts and len(inner) > 1:  # to train without it would be no help
            named = preview([str(p.relative_to(root)) for p in _without_images(inner) or inner])
            raise DataError(f'{root}: the part {part!r} cannot be used: no images in {named}; '
                            f'put images there, or remove what is no class')
    folders = {part: _class_folders(root / a['folder']) for part, a in parts.items()}
    _compare_parts(root, {part: [p.name for p in found] for part, found in folders.items()})
    classes = tuple(p.name for p in next(iter(folders.values())))
    for arguments in parts.values():
        arguments['classes'] = list(classes)
    notes = [f'{p.relative_to(root)} has no images' for found in folders.values() for p in found
             if not _has_images(p)]
    return Layout('image-folder', root, ImageFolder, parts, classes, notes)


def folders_of_parts(root: Path) -> dict[str, Path]:
    """Folders in ``root`` that carry the name of a part, as ``train`` or ``Valid``, by part."""
    parts = {name: part for part, names in _PART_NAMES.items() for name in names}
    return {parts[p.name.lower()]: p for p in sorted(root.iterdir())
            if p.is_dir() and p.name.lower() in parts}


def _has_class_folders(folder: Path) -> bool:
    """Whether there are several folders, with images at any depth; some may be empty."""
    inner = _class_folders(folder)
    return len(inner) > 1 and any(map(_has_images, inner)) and not _without_images(inner)


def _without_images(folders: list[Path]) -> list[Path]:
    """Folders of other files, such as ``labels`` beside ``images``: no classes."""
    return [p for p in folders if not _has_images(p) and any(f.is_file() for f in p.rglob('*'))]


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != '.')


def _has_images(folder: Path) -> bool:
    """Whether an image lies in a folder, at any depth."""
    return any(f.suffix.lower() in IMAGE_SUFFIXES and f.name[0] != '.' for f in folder.rglob('*'))


def _compare_parts(root: Path, names: dict[str, list[str]]) -> None:
    """Refuse parts whose classes differ, for the same label would mean two classes."""
    first, *others = names
    for part in others:
        difference = class_difference(sorted(names[first]), sorted(names[part]))
        if difference:
            raise DataError(f'{root}: the part {part!r} has other classes than {first!r}: it '
                            f'{difference}; make their names the same (for class folders, a class '
                            f'without images may be an empty folder)')


def part_of(name: str) -> str | None:
    """``train``, ``val`` or ``test``, if a path names one of them."""
    found = re.search(r'(?<![a-z])(train|validation|valid|val|test)(?![a-z])',
                      name.lower().replace('_', ' '))
    if found is None:
        return None
    return next(part for part, names in _PART_NAMES.items() if found[1] in names)


FINDERS: dict[str, Callable[[Path], Layout | None]] = {
    'coco': find_coco, 'voc': find_voc, 'yolo': find_yolo, 'pairs': find_pairs,
    'image-folder': find_image_folder}
