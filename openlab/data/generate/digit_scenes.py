"""Digit scenes: real handwritten digits on textured backgrounds, for detection and segmentation.

The digits are those of scikit-learn, in the split of the ``Digits`` dataset, so that none stands
in both parts. They come in random sizes, rotations and colours, and may cover each other;
boxes, masks and maps tell what is visible. Ordinary files are written:

    images/{train,val}/000000.jpg
    annotations/instances_{train,val}.json    COCO: boxes, masks (polygons; run lengths for holes)
    annotations/panoptic_{train,val}.json     COCO panoptic, with panoptic/{train,val}/000000.png
    semantic/{train,val}/000000.png           class index of each pixel: 0 background, digit + 1

A scene depends on (seed, part, number) alone: more scenes do not change the first ones.

S size of a scene · s size of a digit in it, pixels · P size of the patch around a digit
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openlab.data.datasets.digits import read_digits, stratified_split
from openlab.data.generate.folder import announce, make_folder
from openlab.data.generate.textures import make_texture
from openlab.structures.masks import compress_rle, mask_to_polygons, mask_to_rle

DIGITS = tuple(str(i) for i in range(10))
CLASSES = ('background', *DIGITS)
# Distinct and stable: the colours of the maps, by class index.
PALETTE = ((70, 70, 70), (31, 119, 230), (250, 130, 20), (40, 167, 69), (220, 50, 60),
           (140, 90, 210), (0, 175, 185), (230, 90, 170), (150, 105, 60), (190, 190, 30),
           (110, 160, 255))
BACKGROUND_ID = 11
"""Category id of the background in the panoptic files; digits have 1 to 10 everywhere."""
_VERSION = 1
_LEVEL = 0.4
"""Ink above this part of the full intensity belongs to the digit."""
_VISIBLE = 0.65
"""No digit is covered so far that less than this part of it can be seen."""


@dataclass(frozen=True)
class DigitScenes:
    """Makes the data when they are not there yet: the ``make`` argument of a dataset.

    Args:
        train: number of scenes to train on.
        val: number of scenes held out.
        size: height and width in pixels.
        max_digits: most digits in a scene; at least one is there.
        seed: of everything that is drawn.
    """

    train: int = 2000
    val: int = 400
    size: int = 256
    max_digits: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (('train', 1), ('val', 1), ('size', 64), ('max_digits', 1)):
            if getattr(self, name) < least:
                raise ValueError(f'digit scenes: {name} must be at least {least}, got '
                                 f'{getattr(self, name)}')

    def __call__(self, folder: str | Path, say: Callable[[str], None] = announce) -> bool:
        """Make them in ``folder`` unless they are there; returns whether they were made."""
        settings = {'kind': 'digit-scenes', 'version': _VERSION, **asdict(self)}
        title = (f'digit scenes, {self.train} to train and {self.val} held out, {self.size} x '
                 f'{self.size} px, seed {self.seed},')
        return make_folder(folder, settings, title, self._fill, say)

    def _fill(self, folder: Path) -> None:
        images, labels = read_digits()
        held_out = stratified_split(labels, share=0.25, seed=0)
        for part, (name, count) in enumerate((('train', self.train), ('val', self.val))):
            digits = np.flatnonzero(held_out == (name == 'val'))
            writer = _PartWriter(folder, name)
            for number in range(count):
                rng = np.random.default_rng([self.seed, part, number])
                scene = make_scene(rng, images, labels, digits, self.size, self.max_digits)
                writer.write(number, scene)
            writer.finish()


def make_digit_scenes(folder: str | Path, train: int = 2000, val: int = 400, size: int = 256,
                      seed: int = 0, say: Callable[[str], None] = announce) -> bool:
    """Make digit scenes in a folder unless they are there; see ``DigitScenes``."""
    return DigitScenes(train=train, val=val, size=size, seed=seed)(folder, say)


@dataclass
class Scene:
    """One image and what is in it.

    Attributes:
        image: (S, S, 3) RGB uint8.
        owners: which digit is seen at each pixel, -1 for none, (S, S) int16.
        labels: value of each digit, (N,).
        sources: which of scikit-learn's digits each one is, (N,).
        full_areas: pixels of each digit had it not been covered, (N,).
    """

    image: np.ndarray
    owners: np.ndarray
    labels: np.ndarray
    sources: np.ndarray
    full_areas: np.ndarray


def make_scene(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray,
               digits: np.ndarray, size: int, max_digits: int = 6) -> Scene:
    """Put random digits on a random background.

    Args:
        rng: decides everything.
        images: intensities of all digits, (M, 8, 8) from 0 to 16.
        labels: their values, (M,).
        digits: indices of those that may be used.
        size: S.
        max_digits: most digits; a crowded scene may hold fewer than were drawn.
    """
    canvas = make_texture(rng, size)
    owners = np.full((size, size), -1, np.int16)
    sources: list[int] = []
    full: list[int] = []
    seen: list[int] = []
    for _ in range(int(rng.integers(1, max_digits + 1))):
        source = int(rng.choice(digits))
        ink = _render(rng, images[source], size)
        mask = ink > 0.5
        place = _find_place(rng, mask, owners, full, seen)
        if place is None:
            continue
        window = (slice(place[0], place[0] + len(mask)), slice(place[1], place[1] + len(mask)))
        _paint(rng, canvas[window], ink)
        under = owners[window][mask]
        covered = np.bincount(under[under >= 0], minlength=len(seen))
        seen = [s - int(c) for s, c in zip(seen, covered)]
        owners[window][mask] = len(sources)
        sources.append(source)
        full.append(int(mask.sum()))
        seen.append(full[-1])
    image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    chosen = np.array(sources, dtype=np.int64)
    return Scene(image, owners, labels[chosen], chosen, np.array(full))


def _render(rng: np.random.Generator, digit: np.ndarray, size: int) -> np.ndarray:
    """How much ink covers each pixel of a patch, (P, P) from 0 to 1: any size, any turn."""
    height = float(np.exp(rng.uniform(np.log(0.12), np.log(0.48)))) * size
    height = max(height, 20.0)
    scale = height / 8
    angle = np.deg2rad(rng.uniform(-25, 25))
    stretch = rng.uniform(0.85, 1.2)
    side = min(int(np.ceil(height * 1.45)), size)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([scale * stretch, scale])
    # The digit has a margin of two cells; pixel centres are at whole numbers for OpenCV.
    offset = (side - 1) / 2 - linear @ [5.5, 5.5]
    padded = np.pad(digit.astype(np.float32) / 16, 2)
    ink = cv2.warpAffine(padded, np.column_stack([linear, offset]), (side, side),
                         flags=cv2.INTER_CUBIC)
    # Bring the level to 0.5 with an edge about a pixel wide.
    return np.clip((ink - _LEVEL) * (scale / 2) + 0.5, 0, 1)


def _find_place(rng: np.random.Generator, mask: np.ndarray, owners: np.ndarray, full: list[int],
                seen: list[int]) -> tuple[int, int] | None:
    """Top and left of a patch that leaves enough of every other digit to be seen."""
    side = len(mask)
    if not mask.any():
        return None
    for _ in range(12):
        top, left = rng.integers(0, len(owners) - side + 1, 2)
        under = owners[top:top + side, left:left + side][mask]
        covered = np.bincount(under[under >= 0], minlength=len(full))
        if all(s - c >= _VISIBLE * f for s, c, f in zip(seen, covered, full)):
            return int(top), int(left)
    return None


def _paint(rng: np.random.Generator, canvas: np.ndarray, ink: np.ndarray) -> None:
    """Lay ink of a colour that differs enough from what is below onto the canvas."""
    below = ink.ravel() @ canvas.reshape(-1, 3) / ink.sum()
    weights = np.array([0.299, 0.587, 0.114])
    for _ in range(30):
        colour = rng.uniform(0, 255, 3)
        if abs((colour - below) @ weights) > 75:
            break
    side = len(ink)
    ramp = np.linspace(-1, 1, side, dtype=np.float32) * rng.uniform(-18, 18)
    shade = ramp[:, None] if rng.random() < 0.5 else ramp[None]
    grain = rng.standard_normal((side, side), dtype=np.float32) * 5 + shade
    colours = np.clip(colour.astype(np.float32) + grain[..., None], 0, 255)
    canvas += (colours - canvas) * ink[..., None]


class _PartWriter:
    """Writes the files of one part, and its annotations at the end."""

    def __init__(self, folder: Path, part: str):
        self.folder, self.part = folder, part
        for kind in ('images', 'semantic', 'panoptic'):
            (folder / kind / part).mkdir(parents=True)
        (folder / 'annotations').mkdir(exist_ok=True)
        self.images: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.panoptic: list[dict[str, Any]] = []

    def write(self, number: int, scene: Scene) -> None:
        """Write image and maps of a scene; note its annotations."""
        stem = f'{number:06d}'
        _write(self.folder / 'images' / self.part / f'{stem}.jpg',
               cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
        height, width = scene.owners.shape
        image_id = number + 1
        self.images.append({'id': image_id, 'file_name': f'{stem}.jpg', 'height': height,
                            'width': width})
        classes = np.append(scene.labels + 1, 0)  # owner -1 is the last one: background
        _write_indexed(self.folder / 'semantic' / self.part / f'{stem}.png',
                       classes[scene.owners].astype(np.uint8))
        segments = [self._segment(BACKGROUND_ID, 0, scene.owners < 0)]
        for place, label in enumerate(scene.labels.tolist()):
            mask = scene.owners == place
            segments.append(self._segment(label + 1, place + 1, mask))
            polygons = mask_to_polygons(mask)
            self.objects.append({
                'id': len(self.objects) + 1, 'image_id': image_id, 'category_id': label + 1,
                'bbox': segments[-1]['bbox'], 'area': segments[-1]['area'], 'iscrowd': 0,
                'segmentation': compress_rle(mask_to_rle(mask)) if polygons is None else polygons,
                'digit': int(scene.sources[place]),
                'visible': round(segments[-1]['area'] / int(scene.full_areas[place]), 3)})
        ids = np.array([s['id'] for s in segments[1:]] + [segments[0]['id']])[scene.owners]
        blue_green_red = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1)
        _write(self.folder / 'panoptic' / self.part / f'{stem}.png',
               blue_green_red.astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 3])
        present = [s for s in segments if s['area']]
        self.panoptic.append({'image_id': image_id, 'file_name': f'{stem}.png',
                              'segments_info': present})

    def _segment(self, category: int, place: int, mask: np.ndarray) -> dict[str, Any]:
        # The id is a colour (red + 256 green + 65536 blue) near that of the class.
        index = 0 if category == BACKGROUND_ID else category
        red, green, blue = PALETTE[index]
        return {'id': (red ^ place) | green << 8 | blue << 16, 'category_id': category,
                'area': int(mask.sum()), 'bbox': _bounds(mask), 'iscrowd': 0}

    def finish(self) -> None:
        """Write the annotation files."""
        things = [{'id': i + 1, 'name': name, 'supercategory': 'digit'}
                  for i, name in enumerate(DIGITS)]
        info = {'description': 'openlab digit scenes: scikit-learn digits on textures'}
        _write_json(self.folder / 'annotations' / f'instances_{self.part}.json', {
            'info': info, 'images': self.images, 'annotations': self.objects,
            'categories': things})
        colours = [list(c) for c in PALETTE]
        both: list[dict[str, Any]] = [{**c, 'isthing': 1, 'color': colours[i]}
                                      for i, c in enumerate(things, start=1)]
        both.append({'id': BACKGROUND_ID, 'name': CLASSES[0], 'supercategory': 'background',
                     'isthing': 0, 'color': colours[0]})
        _write_json(self.folder / 'annotations' / f'panoptic_{self.part}.json', {
            'info': info, 'images': self.images, 'annotations': self.panoptic,
            'categories': both})


def _bounds(mask: np.ndarray) -> list[int]:
    """COCO's box of a mask: left, top, width, height."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1),
            int(rows[-1] - rows[0] + 1)]


def _write(path: Path, image: np.ndarray, options: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, image, options)
    if not done:
        raise OSError(f'cannot encode {path}')
    path.write_bytes(data.tobytes())


def _write_indexed(path: Path, indices: np.ndarray) -> None:
    """A PNG of class indices that viewers show in colour."""
    from PIL import Image

    image = Image.fromarray(indices, mode='P')
    image.putpalette([v for colour in PALETTE for v in colour])
    image.save(path, compress_level=3)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(',', ':')), encoding='utf-8')
