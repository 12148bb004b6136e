"""YOLO's text files: one for each image, one object on each line, as parts of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openlab.data.datasets.base import Annotations, list_images, preview
from openlab.data.datasets.detection import DetectionDataset, Images, Objects
from openlab.data.errors import DataError, Dropped
from openlab.data.reading import image_size, read_text
from openlab.data.transforms.base import Transform
from openlab.registry import DATASETS


@DATASETS.register_module()
class YoloDataset(DetectionDataset):
    """``images/train/NAME.jpg`` and ``labels/train/NAME.txt``.

    A line is ``class cx cy width height`` or ``class x1 y1 x2 y2 x3 y3 ...`` (an outline); all
    coordinates are parts of the image's width and height. An image without a text file has no
    objects. Class names stand in ``data.yaml`` (``names``) or ``classes.txt``.

    Args:
        img_dir: folder of images (``images/train``), or a text file that lists them, relative
            to ``data_root``.
        label_dir: folder of text files; by default ``img_dir`` with ``images`` replaced by
            ``labels``.
        data_root: folder that all paths are relative to.
        pipeline: transforms, applied in order to each item.
        classes: names in the order of their indices; by default read from ``names_file``.
        names_file: a YAML file with ``names``, or a text file with a name on each line; by
            default ``data.yaml`` or ``classes.txt``.
        keep_empty: keep images without objects.
        min_size: boxes with a shorter side, in pixels, are dropped.
        make: called with ``data_root`` before anything is read, to make the data.
    """

    def __init__(self, img_dir: str = 'images/train', label_dir: str | None = None,
                 data_root: str | Path = '', pipeline: Sequence[Transform] = (),
                 classes: Sequence[str] | None = None, names_file: str | None = None,
                 keep_empty: bool = True, min_size: float = 1.0,
                 make: Callable[[Path], Any] | None = None):
        super().__init__(data_root, pipeline, classes, keep_empty, min_size, make)
        self.img_dir = img_dir
        self.label_dir = label_dir
        self.names_file = names_file

    def load(self) -> Annotations:
        """Read every text file and the header of every image."""
        classes = self._classes()
        paths = self._image_paths()
        dropped: list[Dropped] = []
        images = Images()
        image: list[int] = []
        labels: list[int] = []
        outlines: list[list[float]] = []
        boxes: list[list[float]] = []
        sources: list[str] = []
        for path in paths:
            try:
                height, width = size = image_size(self.data_root / path)
            except DataError as error:
                dropped.append(Dropped(path, str(error)))
                continue
            file = self.label_file(path)
            lines = read_text(file).splitlines() if file.exists() else []
            for number, line in enumerate(lines, start=1):
                source = f'{file}, line {number}'
                found, problem = parse_line(line, len(classes))
                if problem:
                    dropped.append(Dropped(source, problem))
                if found is None:
                    continue
                label, numbers = found
                points = np.array(numbers) * np.resize([width, height], len(numbers))
                image.append(len(images.paths))
                labels.append(label)
                sources.append(source)
                outlines.append(points.tolist() if len(points) > 4 else [])
                boxes.append(_box_around(points))
            images.add(path, len(images.paths), size)
        objects = Objects(
            image=np.array(image, dtype=np.int64),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64), sources=lambda i: sources[i],
            # A set of outlines may hold a few plain boxes: these become their own outlines.
            segmentation=[[o or _corners(b)] for o, b in zip(outlines, boxes)]
            if any(outlines) else None)
        return self.assemble(images, objects, classes, dropped)

    def label_file(self, img_path: str) -> Path:
        """The text file of an image."""
        parts = list(Path(img_path).parts)
        if self.label_dir is not None:
            folder = Path(self.img_dir)
            relative = Path(img_path)
            if folder.suffix == '' and folder.parts == relative.parts[:len(folder.parts)]:
                relative = relative.relative_to(folder)
            else:
                relative = Path(relative.name)
            return (self.data_root / self.label_dir / relative).with_suffix('.txt')
        for place in reversed(range(len(parts) - 1)):
            if parts[place] == 'images':
                parts[place] = 'labels'
                break
        return self.data_root.joinpath(*parts).with_suffix('.txt')

    def _image_paths(self) -> list[str]:
        given = self.resolve_path(self.img_dir)
        if given.is_dir():
            return [p.relative_to(self.data_root).as_posix() for p in list_images(given)]
        lines = [line.strip() for line in read_text(given).splitlines() if line.strip()]
        root = given.parent
        full = [Path(line) if Path(line).is_absolute() else root / line for line in lines]
        base = self.data_root.resolve()
        return [p.resolve().relative_to(base).as_posix() if p.resolve().is_relative_to(base)
                else str(p) for p in full]

    def _classes(self) -> tuple[str, ...]:
        names = self._names_from_file()
        if names is None and self.given_classes is None:
            raise DataError(f'YoloDataset: {self.data_root} has neither data.yaml nor classes.txt; '
                            f'name one by names_file=, or give classes=[...]')
        if self.given_classes is not None and names and set(self.given_classes) != set(names):
            raise DataError(f'YoloDataset: classes={list(self.given_classes)} but the file names '
                            f'{preview(names)}; indices in the text files mean the latter')
        return tuple(names or self.given_classes or ())

    def _names_from_file(self) -> list[str] | None:
        if self.names_file is not None:
            return read_names(self.resolve_path(self.names_file))
        for name in ('data.yaml', 'dataset.yaml', 'classes.txt'):
            if (self.data_root / name).is_file():
                return read_names(self.data_root / name)
        return None

    def source(self, index: int) -> str:
        """The text file."""
        return str(self.label_file(self.get_info(index)['img_path']))


def read_names(file: Path) -> list[str]:
    """Class names of a YAML file (``names``, a list or a dict by index) or of a plain list.

    Raises:
        DataError: if there are none, or indices have gaps.
    """
    text = read_text(file)
    if file.suffix not in ('.yaml', '.yml'):
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise DataError(f'{file} is not YAML: {error}') from None
        names = content.get('names') if isinstance(content, dict) else None
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise DataError(f'{file}: names must have the indices 0 to {len(names) - 1}, got '
                                f'{preview(sorted(names))}')
            names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f'{file} has no class names')
    return [str(n) for n in names]


def parse_line(line: str, num_classes: int
               ) -> tuple[tuple[int, list[float]] | None, str | None]:
    """Class and numbers of one line, or what is wrong with it; both ``None`` for a blank line."""
    fields = line.split()
    if not fields:
        return None, None
    try:
        label, numbers = float(fields[0]), [float(f) for f in fields[1:]]
    except ValueError:
        return None, f'not numbers: {line[:60]!r}'
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        return None, (f'{len(fields)} numbers; a line holds class cx cy width height, or a class '
                      f'and at least three points')
    if label != int(label) or not 0 <= label < num_classes:
        return None, f'class {fields[0]} but there are {num_classes} classes, 0 to ' \
                     f'{num_classes - 1}'
    if len(numbers) == 4 and max(numbers) > 1.5:
        return None, f'coordinates must be parts of the image (0 to 1), not pixels: {line[:60]!r}'
    return (int(label), numbers), None


def _box_around(points: np.ndarray) -> list[float]:
    if len(points) == 4:
        x, y, width, height = points
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = points[::2], points[1::2]
    return [xs.min(), ys.min(), xs.max(), ys.max()]


def _corners(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]
