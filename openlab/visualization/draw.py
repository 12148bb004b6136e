"""Draw samples: a label with its probability, boxes, masks, keypoints, semantic maps.

All images are RGB, (H, W, 3) uint8. A small image is enlarged by a whole factor first, and
everything is drawn at the final size: lines and letters are equally sharp on an 8-pixel digit
and on a photo.

N objects · J keypoints · K classes · H, W image height and width
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import cache

import cv2
import numpy as np
import torch

from openlab.structures.data_sample import DataSample
from openlab.visualization.text import (
    BLACK,
    WHITE,
    Colour,
    Pen,
    line_height,
    shorten,
    text_width,
    wrap,
)

# Distinct to people with any kind of colour vision as far as ten colours can be.
FIRST_COLOURS: tuple[Colour, ...] = (
    (31, 119, 230), (250, 130, 20), (40, 167, 69), (220, 50, 60), (140, 90, 210),
    (0, 175, 185), (230, 90, 170), (150, 105, 60), (190, 190, 30), (110, 120, 135))
RIGHT: Colour = (22, 130, 60)
WRONG: Colour = (205, 30, 40)
IGNORED = 255
MASK_ALPHA = 0.45


@cache
def class_colour(index: int) -> Colour:
    """Colour of a class: the same in every picture, run and machine."""
    if 0 <= index < len(FIRST_COLOURS):
        return FIRST_COLOURS[index]
    # Steps of the golden ratio never come close to a hue used shortly before.
    hue = (index * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[index % 3], (0.9, 0.7)[index % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def class_name(index: int, classes: Sequence[str] | None) -> str:
    """Name of a class, its number where names are unknown."""
    return str(classes[index]) if classes and 0 <= index < len(classes) else str(index)


def as_rgb(image: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return any usual image as (H, W, 3) uint8: a (3, H, W) or (1, H, W) tensor, grey, RGBA.

    Raises:
        ValueError: if it has another shape, or floats outside of 0 to 1.
    """
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(f'an image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a '
                         f'tensor with the channels first; this one is {tuple(image.shape)}')
    if array.dtype != np.uint8:
        if np.issubdtype(array.dtype, np.floating):
            low, high = float(array.min(initial=0)), float(array.max(initial=0))
            if low < -1e-3 or high > 1 + 1e-3:
                raise ValueError(f'a float image must be within 0 and 1; this one spans {low:.3g} '
                                 f'to {high:.3g} (normalised? draw it before the preprocessor)')
            array = (array.clip(0, 1) * 255).round()
        array = array.astype(np.uint8)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[..., :3])


def scale_for(image: np.ndarray, min_side: int) -> int:
    """Whole factor by which an image must grow for its short side to reach ``min_side``."""
    return max(1, -(-min_side // max(1, min(image.shape[:2]))))


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Grow by a whole factor: tiny images keep their pixels as squares, others are smoothed."""
    if factor == 1:
        return image.copy()
    how = cv2.INTER_NEAREST if max(image.shape[:2]) <= 64 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)


def draw_sample(
    image: np.ndarray | torch.Tensor,
    sample: DataSample,
    classes: Sequence[str] | None = None,
    truth: DataSample | None = None,
    *,
    min_side: int = 224,
    score_threshold: float = 0.3,
    max_objects: int = 100,
    skeleton: Sequence[tuple[int, int]] = (),
    palette: Sequence[Colour] | None = None,
) -> np.ndarray:
    """Draw what a sample knows about an image.

    With a truth, a class label is drawn as one caption of both (green if right, red if wrong);
    objects and maps are drawn in two panels, truth on the left.

    Args:
        image: the image that boxes, masks and maps refer to.
        sample: a prediction, or a truth on its own.
        classes: names of the classes.
        truth: what the prediction should be.
        min_side: smaller images are enlarged until their short side has so many pixels.
        score_threshold: objects with a smaller score are not drawn.
        max_objects: most objects to draw, best scores first.
        skeleton: pairs of keypoints to join.
        palette: colour of each class; by default ``class_colour``.

    Returns:
        The picture, (H', W', 3) uint8; larger than the image where there is a caption.
    """
    image = as_rgb(image)
    scale = scale_for(image, min_side)
    colours = Colours(palette)
    picture = draw_panel(image, sample, classes, scale, score_threshold, max_objects, skeleton,
                         colours)
    if truth is not None and has_layout(sample, truth):
        left = draw_panel(image, truth, classes, scale, 0.0, max_objects, skeleton, colours)
        picture = join_panels([left, picture], ['truth', 'prediction'])
    caption = label_caption(sample, classes, truth)
    return add_caption(picture, caption) if caption else picture


def join_panels(panels: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Put pictures of one image beside each other, each under its title."""
    height = max(p.shape[0] for p in panels)
    size = caption_size(height, panels[0].shape[1])
    titled = [_titled(p, t, size, height) for p, t in zip(panels, titles)]
    gap = np.full((titled[0].shape[0], max(4, size // 2), 3), WHITE, np.uint8)
    parts = [part for panel in titled for part in (gap, panel)][1:]
    return np.concatenate(parts, axis=1)


def label_caption(sample: DataSample, classes: Sequence[str] | None = None,
                  truth: DataSample | None = None) -> list[tuple[str, Colour]]:
    """Lines that tell the class label of a sample: text and colour of each."""
    lines: list[tuple[str, Colour]] = []
    predicted = label_of(sample)
    if predicted is not None:
        index, probability = predicted
        text = class_name(index, classes)
        if probability is not None:
            text += f' · {format_share(probability)}'
        expected = label_of(truth) if truth is not None else None
        if expected is None:
            lines.append((text, BLACK))
        elif expected[0] == index:
            lines.append((text, RIGHT))
        else:
            lines.append((text, WRONG))
            lines.append((f'truth: {class_name(expected[0], classes)}', BLACK))
    if sample.text:
        lines.append((sample.text, BLACK))
    return lines


def label_of(sample: DataSample) -> tuple[int, float | None] | None:
    """Class index of a sample and its probability, as far as they are known."""
    if sample.label is None and sample.label_probs is None:
        return None
    probs = sample.label_probs
    index = int(sample.label) if sample.label is not None else int(probs.argmax())  # type: ignore[union-attr]
    known = probs is not None and probs.ndim == 1 and 0 <= index < len(probs)
    return index, float(probs[index]) if known else None  # type: ignore[index]


def format_share(value: float) -> str:
    """A probability as a percentage that says 100 % only where nothing is missing."""
    percent = value * 100
    if 99.5 <= percent < 99.95:
        return f'{percent:.1f}%'
    return '>99.9%' if 99.95 <= percent < 100 else f'{percent:.0f}%'


def caption_size(height: int, width: int) -> int:
    """Size of letters that suits a picture."""
    return int(np.clip(min(height, width) / 15, 13, 26))


def add_caption(picture: np.ndarray, lines: Sequence[tuple[str, Colour]],
                size: int | None = None) -> np.ndarray:
    """Write lines of text onto a white strip above a picture."""
    height, width = picture.shape[:2]
    size = size or caption_size(height, width)
    pad = size // 3
    pieces = [(piece, colour, number == 0) for number, (text, colour) in enumerate(lines)
              for piece in wrap(text, width - 2 * pad, size, bold=number == 0)]
    strip = np.full((line_height(size) * len(pieces) + pad, width, 3), WHITE, np.uint8)
    pen = Pen(strip)
    for row, (text, colour, bold) in enumerate(pieces):
        pen.write(text, pad, row * line_height(size) + pad / 2, size, colour, bold)
    return np.concatenate([pen.result(), picture], axis=0)


def draw_grid(
    pictures: Sequence[np.ndarray],
    columns: int | None = None,
    *,
    header: str | Sequence[tuple[str, Colour]] = '',
    frames: Sequence[Colour | None] | None = None,
    pad: int = 10,
    max_width: int = 2400,
) -> np.ndarray:
    """Lay pictures out in rows; each keeps its proportions and stands in the middle of its cell.

    Args:
        pictures: RGB pictures of any size.
        columns: pictures in a row; by default about as many rows as columns.
        header: text over the grid, or lines with a colour each.
        frames: a colour for the frame around each picture.
        pad: pixels between pictures.
        max_width: a wider grid is made smaller.

    Raises:
        ValueError: if there is no picture.
    """
    if not pictures:
        raise ValueError('a grid needs at least one picture, got none')
    columns = min(columns or round(np.ceil(np.sqrt(len(pictures)))), len(pictures))
    cell_width = max(p.shape[1] for p in pictures)
    if columns * (cell_width + pad) > max_width:
        shrink = max_width / (columns * (cell_width + pad))
        pictures = [cv2.resize(p, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
                    for p in pictures]
        cell_width = max(p.shape[1] for p in pictures)
    rows = [pictures[i:i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    sheet = np.full((sum(heights) + pad * (len(rows) + 1),
                     columns * (cell_width + pad) + pad, 3), WHITE, np.uint8)
    y = pad
    for number, (row, height) in enumerate(zip(rows, heights)):
        for column, picture in enumerate(row):
            h, w = picture.shape[:2]
            x = pad + column * (cell_width + pad) + (cell_width - w) // 2
            top = y + (height - h)  # captions differ in height: pictures stand on one line
            frame = frames[number * columns + column] if frames else None
            if frame is not None:
                thick = max(2, pad // 4)
                corners = (x - thick, top - thick), (x + w - 1 + thick, top + h - 1 + thick)
                cv2.rectangle(sheet, *corners, frame, -1)
            sheet[top:top + h, x:x + w] = picture
        y += height + pad
    if not header:
        return sheet
    lines = [(header, BLACK)] if isinstance(header, str) else list(header)
    return add_caption(sheet, lines, size=int(np.clip(sheet.shape[1] / 45, 14, 30)))


def draw_boxes(picture: np.ndarray, boxes: np.ndarray, colours: Sequence[Colour],
               thickness: int = 2) -> np.ndarray:
    """Outline boxes.

    Args:
        picture: changed in place.
        boxes: xyxy in pixels of the picture, (N, 4).
        colours: one for each box.
        thickness: of the lines, in pixels.
    """
    for box, colour in zip(boxes, colours):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, thickness, cv2.LINE_AA)
    return picture


def draw_masks(picture: np.ndarray, masks: np.ndarray, colours: Sequence[Colour],
               alpha: float = MASK_ALPHA) -> np.ndarray:
    """Tint and outline masks, (N, H, W) bool of the picture's size; changes it in place."""
    for mask, colour in zip(masks, colours):
        inside = mask.astype(bool)
        tinted = picture[inside] * (1 - alpha) + np.array(colour) * alpha
        picture[inside] = tinted.round().astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL,
                                       cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1)
    return picture


def draw_semantic_map(picture: np.ndarray, semantic_map: np.ndarray, colours: Colours,
                      alpha: float = 0.55) -> np.ndarray:
    """Tint each pixel with the colour of its class; ignored pixels stay as they are."""
    result = picture.copy()
    for index in np.unique(semantic_map):
        if index == IGNORED:
            continue
        inside = semantic_map == index
        tinted = picture[inside] * (1 - alpha) + np.array(colours[int(index)]) * alpha
        result[inside] = tinted.round().astype(np.uint8)
    return result


def draw_panoptic_map(picture: np.ndarray, panoptic_map: np.ndarray, labels: Mapping[int, int],
                      colours: Colours, alpha: float = MASK_ALPHA) -> np.ndarray:
    """Tint each segment with the colour of its class, with a white line between segments.

    Args:
        picture: (H, W, 3); it is not changed.
        panoptic_map: segment ids of the picture's size, 0 for none.
        labels: class of each id.
        colours: of the classes.
        alpha: strength of the tint.
    """
    result = picture.copy()
    for number, label in labels.items():
        inside = panoptic_map == number
        tinted = picture[inside] * (1 - alpha) + np.array(colours[label]) * alpha
        result[inside] = tinted.round().astype(np.uint8)
    edge = np.zeros(panoptic_map.shape, bool)
    edge[:, 1:] |= panoptic_map[:, 1:] != panoptic_map[:, :-1]
    edge[1:] |= panoptic_map[1:] != panoptic_map[:-1]
    result[edge] = WHITE
    return result


def draw_keypoints(picture: np.ndarray, keypoints: np.ndarray,
                   skeleton: Sequence[tuple[int, int]] = (), radius: int = 4) -> np.ndarray:
    """Dots at the points that are visible (v > 0), lines along the skeleton.

    Args:
        picture: changed in place.
        keypoints: x, y, visibility in pixels of the picture, (N, J, 3).
        skeleton: pairs of points to join.
        radius: of the dots.
    """
    for points in keypoints:
        at = [(round(float(x)), round(float(y))) for x, y, _ in points]
        seen = [float(v) > 0 for *_, v in points]
        for a, b in skeleton:
            if seen[a] and seen[b]:
                cv2.line(picture, at[a], at[b], WHITE, max(3, radius), cv2.LINE_AA)
                cv2.line(picture, at[a], at[b], class_colour(a), max(1, radius // 2), cv2.LINE_AA)
        for j, (point, is_seen) in enumerate(zip(at, seen)):
            if is_seen:
                cv2.circle(picture, point, radius + 1, WHITE, -1, cv2.LINE_AA)
                cv2.circle(picture, point, radius, class_colour(j), -1, cv2.LINE_AA)
    return picture


def legend(entries: Sequence[tuple[str, Colour]], width: int, size: int) -> np.ndarray:
    """A strip of colour swatches with names, as many lines as it takes.

    Args:
        entries: name and colour of each swatch.
        width: of the strip, in pixels.
        size: of the letters.
    """
    row, gap = line_height(size), size // 2
    places: list[tuple[int, int, Colour, str]] = []
    x = y = 0
    for full_name, colour in entries:
        name = shorten(full_name, width - size - 3 * gap, size)
        needed = size + gap + text_width(name, size) + gap
        if x and x + needed > width - gap:
            x, y = 0, y + row
        places.append((x + gap, y, colour, name))
        x += needed
    pen = Pen(np.full((y + row + gap, width, 3), WHITE, np.uint8))
    for x, y, colour, name in places:
        pen.box(x, y + gap / 2 + (row - size) / 2, size, size, colour)
        pen.write(name, x + size + gap // 2, y + gap / 2, size)
    return pen.result()


class Colours:
    """Colours by class index, from a palette as far as it reaches."""

    def __init__(self, palette: Sequence[Sequence[int]] | None = None):
        self._palette = palette if palette is not None else ()

    def __getitem__(self, index: int) -> Colour:
        if 0 <= index < len(self._palette):
            red, green, blue = (int(v) for v in self._palette[index])
            return red, green, blue
        return class_colour(index)


def has_layout(*samples: DataSample) -> bool:
    """Whether any of them holds something that has a place in the image."""
    return any(value is not None for s in samples
               for value in (s.boxes, s.masks, s.semantic_map, s.panoptic_map, s.keypoints))


def draw_panel(image: np.ndarray, sample: DataSample, classes: Sequence[str] | None = None,
               scale: int = 1, score_threshold: float = 0.3, max_objects: int = 100,
               skeleton: Sequence[tuple[int, int]] = (), colours: Colours | None = None,
               notes: Sequence[str] | None = None, with_legend: bool = True) -> np.ndarray:
    """One picture with everything that has a place in the image.

    Args:
        image: (H, W, 3) RGB uint8.
        sample: what to draw.
        classes: names of the classes.
        scale: whole factor by which the image is enlarged.
        score_threshold: objects with a smaller score are not drawn.
        max_objects: most objects to draw, best scores first.
        skeleton: pairs of keypoints to join.
        colours: of the classes.
        notes: a word for each object, written after its class.
        with_legend: name the classes of a map below it.
    """
    colours = colours or Colours()
    picture = enlarge(image, scale)
    height, width = picture.shape[:2]
    size = int(np.clip(min(height, width) / 22, 11, 20))
    present: list[int] = []
    if sample.semantic_map is not None:
        small = _array(sample.semantic_map).astype(np.int32)
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        picture = draw_semantic_map(picture, large, colours)
        values, counts = np.unique(small[small != IGNORED], return_counts=True)
        present = [int(i) for i in values[np.argsort(-counts, kind='stable')]]
    if sample.panoptic_map is not None and sample.segments:
        small = _array(sample.panoptic_map).astype(np.int32)
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        labels = {int(s['id']): int(s['label']) for s in sample.segments}
        picture = draw_panoptic_map(picture, large, labels, colours)
        present += [k for k in dict.fromkeys(labels.values()) if k not in present]
    picture = _draw_objects(picture, sample, classes, scale,
                            _kept(sample, score_threshold, max_objects), skeleton, colours, size,
                            notes)
    if present and with_legend:
        entries = [(class_name(i, classes), colours[i]) for i in present]
        picture = np.concatenate([picture, legend(entries, width, max(size, 12))], axis=0)
    return picture


def _draw_objects(picture: np.ndarray, sample: DataSample, classes: Sequence[str] | None,
                  scale: int, keep: np.ndarray, skeleton: Sequence[tuple[int, int]],
                  colours: Colours, size: int, notes: Sequence[str] | None) -> np.ndarray:
    height, width = picture.shape[:2]
    thickness = max(2, round(min(height, width) / 200))
    labels = [int(v) for v in _array(sample.labels)[keep]] if sample.labels is not None else None
    tints = [colours[i] for i in labels] if labels is not None else [
        class_colour(i) for i in range(len(keep))]
    if sample.masks is not None:
        masks = [cv2.resize(m.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
                 for m in _array(sample.masks)[keep]]
        # Large objects first, so that small ones in front of them are not painted over.
        order = np.argsort([-int(m.sum()) for m in masks])
        draw_masks(picture, np.array([masks[i] for i in order]), [tints[i] for i in order])
    if sample.boxes is not None:
        boxes = _array(sample.boxes)[keep] * scale
        draw_boxes(picture, boxes, tints, thickness)
    if sample.keypoints is not None:
        keypoints = _array(sample.keypoints)[keep] * np.array([scale, scale, 1])
        draw_keypoints(picture, keypoints, skeleton, max(3, min(height, width) // 80))
    if labels is None or sample.boxes is None:
        return picture
    scores = _array(sample.scores)[keep] if sample.scores is not None else None
    pen = Pen(picture)
    for i in reversed(range(len(keep))):  # the best score is written last, on top
        text = class_name(labels[i], classes)
        text += '' if scores is None else f' {format_share(float(scores[i]))}'
        text += f' · {notes[keep[i]]}' if notes is not None and notes[keep[i]] else ''
        x, y = boxes[i, 0] - thickness // 2, boxes[i, 1] - line_height(size)
        pen.tag(text, x, y if y >= 0 else boxes[i, 1], size, tints[i])
    return pen.result()


def _kept(sample: DataSample, threshold: float, max_objects: int) -> np.ndarray:
    """Indices of the objects to draw, best scores first."""
    if sample.scores is None:
        return np.arange(min(len(sample), max_objects))
    scores = _array(sample.scores)
    order = np.argsort(-scores, kind='stable')
    return order[scores[order] >= threshold][:max_objects]


def _titled(picture: np.ndarray, title: str, size: int, height: int) -> np.ndarray:
    below = np.full((height - picture.shape[0], picture.shape[1], 3), WHITE, np.uint8)
    return add_caption(np.concatenate([picture, below], axis=0), [(title, BLACK)], size)


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
