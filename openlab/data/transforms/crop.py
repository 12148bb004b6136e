"""Cutting a window out of the image, and padding around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openlab.data.transforms.base import Results, Transform, draw_between, draw_index
from openlab.data.transforms.geometry import (
    IGNORE,
    TIED_TO_IMAGE,
    Fill,
    GeometricTransform,
    Move,
    Role,
    apply_move,
    as_fill,
    check_interpolation,
    check_size,
    scaling,
    translation,
)
from openlab.data.transforms.resize import (
    Backend,
    RandomResize,
    Resize,
    ResizeMove,
    check_backend,
    resize_corner,
    resize_image,
)
from openlab.registry import TRANSFORMS

Window = tuple[int, int, int, int]


@dataclass
class WindowMove(Move):
    """Cut out ``window`` (top, left, height, width) and resize it; it may reach outside."""

    window: Window = (0, 0, 0, 0)
    antialias: bool = True
    backend: Backend = 'torch'

    def pixels(self, image: np.ndarray, role: Role) -> np.ndarray:
        """Cut, fill what lies outside, resize."""
        fill = {'image': self.fill, 'map': self.map_fill, 'mask': 0}[role]
        cut = cut_window(image, self.window, fill)
        if role == 'image':
            return resize_image(cut, self.size, self.interpolation, self.antialias, self.backend)
        return resize_image(cut, self.size, 'nearest')


def cut_window(image: np.ndarray, window: Window, fill: Fill = 0) -> np.ndarray:
    """A window (top, left, height, width) of an image; ``fill`` where it reaches outside.

    A view of the image where it lies inside.
    """
    top, left, height, width = window
    bottom, right = top + height, left + width
    inside = image[max(top, 0):max(bottom, 0), max(left, 0):max(right, 0)]
    if inside.shape[:2] == (height, width):
        return inside
    canvas = np.empty((height, width, *image.shape[2:]), dtype=image.dtype)
    canvas[...] = fill
    y, x = max(-top, 0), max(-left, 0)
    canvas[y:y + inside.shape[0], x:x + inside.shape[1]] = inside
    return canvas


def window_matrix(window: Window, size: tuple[int, int]) -> np.ndarray:
    """Matrix that moves a window to an image of ``size`` (H, W)."""
    top, left, height, width = window
    return scaling(size[1] / width, size[0] / height) @ translation(-left, -top)


class _Cropping(GeometricTransform):
    """What all crops share: a window of a fixed size, not resized."""

    def __init__(self, size: int | Sequence[int], pad_if_needed: bool = True, fill: Fill = 0,
                 map_fill: int = IGNORE):
        self.size = check_size(size)
        self.pad_if_needed = pad_if_needed
        self.fill = as_fill(fill)
        self.map_fill = map_fill

    def _size_for(self, height: int, width: int) -> tuple[int, int]:
        if self.pad_if_needed:
            return self.size
        return min(self.size[0], height), min(self.size[1], width)

    def _move(self, top: int, left: int, size: tuple[int, int]) -> Move:
        window = (top, left, *size)
        return WindowMove(translation(-left, -top), size, fill=self.fill,
                          map_fill=self.map_fill, window=window)

    def joined_to(self, previous: Any) -> Transform | None:
        """With a bilinear resize: leave out what the crop would throw away."""
        fits = (type(previous) in (Resize, RandomResize) and type(self) in (CenterCrop, RandomCrop)
                and previous.interpolation == 'bilinear')
        return ResizeThenCrop(previous, self) if fits else None


class ResizeThenCrop(Transform):
    """Both steps at once, for items that have nothing but an image; ``Compose`` makes it.

    Args:
        resize: the first step.
        crop: the second.
    """

    def __init__(self, resize: Resize | RandomResize, crop: _Cropping):
        self.resize = resize
        self.crop = crop

    def __call__(self, results: Results) -> Results | None:
        """Draw both, then resize as much as the crop needs."""
        image = results['img']
        is_color = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        if not is_color or any(results.get(key) is not None for key in TIED_TO_IMAGE):
            resized = self.resize(results)
            return None if resized is None else self.crop(resized)
        first = self.resize.plan(results)
        # Crops look at the size of the image alone.
        results['img'] = np.empty((*first.size, 0), np.uint8)
        second = self.crop.plan(results)
        assert isinstance(first, ResizeMove) and isinstance(second, WindowMove)
        top, left, height, width = second.window
        corner = min(top + height, first.size[0]), min(left + width, first.size[1])
        results['img'] = resize_corner(image, first.size, corner, first.antialias, first.backend)
        before = results.get('matrix')
        results['matrix'] = first.matrix if before is None else first.matrix @ before
        return apply_move(results, second)


@TRANSFORMS.register_module()
class CenterCrop(_Cropping):
    """Cut the middle out.

    Args:
        size: (height, width), or one number for both.
        pad_if_needed: pad images that are smaller; else the result is smaller.
        fill: colour of the padding.
        map_fill: class index of the padding in semantic maps.
    """

    def plan(self, results: Results) -> Move:
        """The window in the middle."""
        height, width = results['img'].shape[:2]
        size = self._size_for(height, width)
        return self._move(_half(height - size[0]), _half(width - size[1]), size)


@TRANSFORMS.register_module()
class CenterSquare(GeometricTransform):
    """Cut a square out of the middle, as large as the image allows: before a resize to one size.

    EfficientNet is evaluated so, with a share of crop / (crop + 32), see
    https://arxiv.org/abs/1905.11946.

    Args:
        share: side of the square over the shorter edge of the image, at most 1.
    """

    def __init__(self, share: float = 1.0):
        if not 0 < share <= 1:
            raise ValueError(f'share must lie between 0 and 1, not {share}')
        self.share = share

    def plan(self, results: Results) -> Move:
        """The window in the middle."""
        height, width = results['img'].shape[:2]
        side = self.share * min(height, width)
        size = max(1, int(side))
        window = (_half(height - side), _half(width - side), size, size)
        return WindowMove(window_matrix(window, (size, size)), (size, size), fill=as_fill(0),
                          map_fill=IGNORE, window=window)


def _half(rest: float) -> int:
    # Halves round to the even number, as in torchvision, so that windows agree.
    return round(rest / 2.0)


@TRANSFORMS.register_module()
class Crop(GeometricTransform):
    """Cut out a fixed window.

    Args:
        top: first row.
        left: first column.
        height: number of rows.
        width: number of columns.
        fill: colour where the window reaches outside.
        map_fill: class index there.
    """

    def __init__(self, top: int, left: int, height: int, width: int, fill: Fill = 0,
                 map_fill: int = IGNORE):
        self.window = (top, left, *check_size((height, width), 'height, width'))
        self.fill = as_fill(fill)
        self.map_fill = map_fill

    def plan(self, results: Results) -> Move:
        """The window as given."""
        size = self.window[2:]
        return WindowMove(window_matrix(self.window, size), size, fill=self.fill,
                          map_fill=self.map_fill, window=self.window)


@TRANSFORMS.register_module()
class RandomCrop(_Cropping):
    """Cut out a window at a random place.

    Args:
        size: (height, width), or one number for both.
        padding: pad this much on every side first (CIFAR: 4).
        max_category_ratio: draw again (up to ten times) while one class fills more than this
            part of the window's semantic map.
        allow_empty: keep windows without any object; else ask for another item where the image
            has boxes and the window has none.
        pad_if_needed: pad images that are smaller; else the result is smaller.
        fill: colour of the padding.
        map_fill: class index of the padding in semantic maps.
    """

    def __init__(self, size: int | Sequence[int], padding: int = 0,
                 max_category_ratio: float = 1.0, allow_empty: bool = True,
                 pad_if_needed: bool = True, fill: Fill = 0, map_fill: int = IGNORE):
        super().__init__(size, pad_if_needed, fill, map_fill)
        if padding < 0:
            raise ValueError(f'padding cannot be negative, got {padding}')
        self.padding = padding
        self.max_category_ratio = max_category_ratio
        self.allow_empty = allow_empty

    def plan(self, results: Results) -> Move:
        """Draw the window."""
        height, width = results['img'].shape[:2]
        size = self._size_for(height + 2 * self.padding, width + 2 * self.padding)
        for _ in range(10):
            top = _draw_start(height, size[0], self.padding)
            left = _draw_start(width, size[1], self.padding)
            if self._is_varied(results.get('semantic_map'), (top, left, *size)):
                break
        return self._move(top, left, size)

    def __call__(self, results: Results) -> Results | None:
        """Crop; ``None`` where no object is left and ``allow_empty`` is off."""
        had_objects = len(results.get('boxes', ())) > 0
        changed = super().__call__(results)
        if changed is not None and had_objects and not self.allow_empty \
                and not len(changed['boxes']):
            return None
        return changed

    def _is_varied(self, semantic_map: np.ndarray | None, window: Window) -> bool:
        if semantic_map is None or self.max_category_ratio >= 1:
            return True
        cut = cut_window(semantic_map, window, self.map_fill)
        _, counts = np.unique(cut[cut != IGNORE], return_counts=True)
        return len(counts) > 1 and counts.max() / counts.sum() < self.max_category_ratio


def _draw_start(length: int, size: int, padding: int) -> int:
    low, high = -padding, length + padding - size
    return min(low, high) + draw_index(abs(high - low) + 1)


@TRANSFORMS.register_module()
class RandomResizedCrop(GeometricTransform):
    """Cut out a window of random area and shape, and resize it: ImageNet's training crop.

    Paper: Going deeper with convolutions, https://arxiv.org/abs/1409.4842, section 6.

    Args:
        size: (height, width) of the result, or one number for both.
        scale: range of the window's area, as part of the image's.
        ratio: range of width / height, drawn evenly on a log scale.
        interpolation: as in ``Resize``.
        antialias: as in ``Resize``.
        backend: as in ``Resize``.
    """

    def __init__(self, size: int | Sequence[int], scale: Sequence[float] = (0.08, 1.0),
                 ratio: Sequence[float] = (3 / 4, 4 / 3), interpolation: str = 'bilinear',
                 antialias: bool = True, backend: Backend = 'torch'):
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'scale and ratio must be 0 < low <= high, got {scale} and {ratio}')
        self.size = check_size(size)
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.interpolation = check_interpolation(interpolation)
        self.antialias = antialias
        check_backend(backend)
        self.backend: Backend = backend

    def plan(self, results: Results) -> Move:
        """Draw the window."""
        window = self.draw_window(*results['img'].shape[:2])
        return WindowMove(window_matrix(window, self.size), self.size, self.interpolation,
                          window=window, antialias=self.antialias, backend=self.backend)

    def draw_window(self, height: int, width: int) -> Window:
        """A window (top, left, height, width) inside an image; the middle after ten failures."""
        area = height * width
        for _ in range(10):
            target = area * draw_between(self.scale)
            ratio = math.exp(np.random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w = round(math.sqrt(target * ratio))
            h = round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(np.random.randint(0, height - h + 1))
                left = int(np.random.randint(0, width - w + 1))
                return top, left, h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


@TRANSFORMS.register_module()
class Pad(GeometricTransform):
    """Pad right and below (or all around) to a size or to a multiple.

    Args:
        size: (height, width) to reach at least, or one number for both.
        divisor: make height and width multiples of this.
        square: make both as long as the longer one.
        center: keep the image in the middle instead of at the top left.
        fill: colour of the padding.
        map_fill: class index of the padding in semantic maps.
    """

    def __init__(self, size: int | Sequence[int] | None = None, divisor: int = 1,
                 square: bool = False, center: bool = False, fill: Fill = 0,
                 map_fill: int = IGNORE):
        if divisor < 1:
            raise ValueError(f'divisor must be at least 1, got {divisor}')
        self.size = None if size is None else check_size(size)
        self.divisor = divisor
        self.square = square
        self.center = center
        self.fill = as_fill(fill)
        self.map_fill = map_fill

    def plan(self, results: Results) -> Move | None:
        """The window around the image; nothing if it is large enough already."""
        height, width = results['img'].shape[:2]
        new_h, new_w = self.new_size(height, width)
        if (new_h, new_w) == (height, width):
            return None
        top = -((new_h - height) // 2) if self.center else 0
        left = -((new_w - width) // 2) if self.center else 0
        return WindowMove(translation(-left, -top), (new_h, new_w), fill=self.fill,
                          map_fill=self.map_fill, window=(top, left, new_h, new_w))

    def new_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) after padding."""
        if self.size is not None:
            height, width = max(height, self.size[0]), max(width, self.size[1])
        if self.square:
            height = width = max(height, width)
        d = self.divisor
        return -(-height // d) * d, -(-width // d) * d
