"""Changing the size of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch.nn import functional

from openlab.data.transforms.base import Results, draw_between
from openlab.data.transforms.geometry import (
    INTERPOLATIONS,
    GeometricTransform,
    Move,
    Role,
    check_interpolation,
    check_size,
    scaling,
)
from openlab.registry import TRANSFORMS

Backend = Literal['torch', 'cv2', 'pillow']
BACKENDS = ('torch', 'cv2', 'pillow')


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: str = 'bilinear',
                 antialias: bool = True, backend: Backend = 'torch') -> np.ndarray:
    """Resize (H, W) or (H, W, C) to (H, W) = ``size``.

    With ``antialias``, down-scaling weighs all pixels that a new one covers. ``torch`` does so
    as Pillow does, to one step of 255, and several times faster; ``cv2`` by its area method.
    Whatever a backend lacks (other interpolations, other types of pixels) OpenCV does.

    Args:
        image: what to resize.
        size: (H, W) of the result.
        interpolation: see ``Resize``.
        antialias: see ``Resize``.
        backend: see ``Resize``.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    is_color = image.ndim == 3 and image.dtype == np.uint8
    if backend == 'pillow' and image.dtype == np.uint8:
        return _resize_pillow(image, size, interpolation, antialias)
    if backend == 'torch' and is_color and antialias and interpolation in ('bilinear', 'bicubic'):
        return _resize_torch(image, size, interpolation)
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    if antialias and interpolation == 'bilinear' and shrinks:
        interpolation = 'area'
    flag = INTERPOLATIONS[interpolation]
    return cv2.resize(image, (width, height), interpolation=flag)


def resize_corner(image: np.ndarray, size: tuple[int, int], corner: tuple[int, int],
                  antialias: bool = True, backend: Backend = 'torch') -> np.ndarray:
    """At least the upper left ``corner`` (H, W) of a bilinearly resized colour image.

    Resized by the same factors from the same origin as in ``resize_image``, so pixels are equal;
    only what lies below and to the right is not looked at.
    """
    kept, factors = [], []
    for length, new, part in zip(image.shape[:2], size, corner, strict=True):
        scale = length / new
        # From the centre of the last wanted pixel as far as its triangle reaches, and one more.
        reach = math.ceil((part - 0.5) * scale + max(scale, 1.0) + 0.5) + 1
        kept.append(min(reach, length))
        # Torch rounds the product down: lift it just over the whole number.
        factors.append(new / length * (1 + 1e-15))
    by_area = antialias and backend != 'torch'
    if tuple(kept) == image.shape[:2] or by_area or size == image.shape[:2]:
        return resize_image(image, size, 'bilinear', antialias, backend)
    image = image[:kept[0], :kept[1]]
    if not antialias:
        return cv2.resize(image, None, fx=factors[1], fy=factors[0])
    view = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(view, scale_factor=factors, mode='bilinear', antialias=True,
                                     recompute_scale_factor=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _resize_torch(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    # A channels-last view: torch has vectorised code for exactly this layout of bytes. (It tells
    # the layout by the strides, so the batch dimension must come first.)
    view = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(view, size, mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _resize_pillow(image: np.ndarray, size: tuple[int, int], interpolation: str,
                   antialias: bool) -> np.ndarray:
    from PIL import Image

    filters = {
        'nearest': Image.Resampling.NEAREST, 'bilinear': Image.Resampling.BILINEAR,
        'bicubic': Image.Resampling.BICUBIC, 'area': Image.Resampling.BOX,
        'lanczos': Image.Resampling.LANCZOS,
    }
    if not antialias and interpolation != 'nearest':
        raise ValueError("backend='pillow' always smooths when it shrinks; use another for "
                         'antialias=False')
    resized = Image.fromarray(image).resize(size[::-1], filters[interpolation])
    return np.array(resized)


@dataclass
class ResizeMove(Move):
    """Resizing without a matrix: faster, and with the means of ``resize_image``."""

    antialias: bool = True
    backend: Backend = 'torch'

    def pixels(self, image: np.ndarray, role: Role) -> np.ndarray:
        """Resize; masks and maps by the nearest pixel."""
        if role == 'image':
            return resize_image(image, self.size, self.interpolation, self.antialias,
                                self.backend)
        return resize_image(image, self.size, 'nearest')


def check_backend(name: str) -> str:
    """Return ``name`` if it names a way to resize.

    Raises:
        ValueError: if not.
    """
    if name not in BACKENDS:
        raise ValueError(f'backend must be one of {", ".join(BACKENDS)}, got {name!r}')
    return name


class _Resizing(GeometricTransform):
    """What all resizing transforms share."""

    def __init__(self, interpolation: str = 'bilinear', antialias: bool = True,
                 backend: Backend = 'torch'):
        self.interpolation = check_interpolation(interpolation)
        check_backend(backend)
        if backend == 'pillow' and not antialias and interpolation != 'nearest':
            raise ValueError("backend='pillow' always smooths when it shrinks; use another for "
                             'antialias=False')
        self.antialias = antialias
        self.backend: Backend = backend

    def _move_to(self, results: Results, size: tuple[int, int]) -> Move:
        height, width = results['img'].shape[:2]
        factor = size[1] / width, size[0] / height
        before = results.get('scale_factor', (1.0, 1.0))
        results['scale_factor'] = (before[0] * factor[0], before[1] * factor[1])
        return ResizeMove(scaling(*factor), size, self.interpolation, antialias=self.antialias,
                          backend=self.backend)


@TRANSFORMS.register_module()
class Resize(_Resizing):
    """Resize to an exact size, or by a rule that keeps the aspect ratio.

    Exactly one of the first three arguments is given.

    Args:
        size: (height, width), or one number for both. With ``keep_ratio`` the largest size that
            fits inside.
        shorter: length of the shorter edge; the ratio is kept. Alone it rounds the other edge
            down, as torchvision, timm and OpenMMLab do where images are classified.
        longer: length of the longer edge; the ratio is kept. Together with ``shorter`` it is a
            limit.
        keep_ratio: fit into ``size`` instead of filling it.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``area`` or ``lanczos``.
        antialias: average over pixels when shrinking.
        backend: ``torch`` (fast; equal to Pillow's and torchvision's to one step of 255, which
            published ImageNet weights were evaluated with), ``cv2``, or ``pillow`` itself.
    """

    def __init__(self, size: int | Sequence[int] | None = None, shorter: int | None = None,
                 longer: int | None = None, keep_ratio: bool = False,
                 interpolation: str = 'bilinear', antialias: bool = True,
                 backend: Backend = 'torch'):
        super().__init__(interpolation, antialias, backend)
        if (size is None) == (shorter is None and longer is None):
            raise ValueError(f'Resize needs either size or shorter/longer, got size={size}, '
                             f'shorter={shorter}, longer={longer}')
        self.size = None if size is None else check_size(size)
        self.shorter = shorter
        self.longer = longer
        self.keep_ratio = keep_ratio

    def plan(self, results: Results) -> Move:
        """The new size for this image."""
        return self._move_to(results, self.new_size(*results['img'].shape[:2]))

    def new_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that an image of this size gets."""
        if self.size is not None and not self.keep_ratio:
            return self.size
        if self.shorter is not None and self.longer is None:
            if height <= width:
                return self.shorter, int(self.shorter * width / height)
            return int(self.shorter * height / width), self.shorter
        if self.size is not None:
            factor = min(self.size[0] / height, self.size[1] / width)
        else:
            limits = []
            if self.shorter is not None:
                limits.append(self.shorter / min(height, width))
            if self.longer is not None:
                limits.append(self.longer / max(height, width))
            factor = min(limits)
        return scaled_size(height, width, factor)


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """(H, W) after multiplying by ``factor``, rounded, at least 1."""
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


@TRANSFORMS.register_module()
class RandomResize(_Resizing):
    """Resize to a size drawn for each image.

    Args:
        scales: sizes, each (height, width) or one number for the shorter edge.
        ratio_range: instead of ``scales``: the image's own size (or ``base``) times a number
            drawn from this range.
        base: (height, width) that ``ratio_range`` multiplies.
        mode: ``choice`` draws one of ``scales``; ``range`` draws a size between the first two.
        longer: limit of the longer edge, for ``scales`` that are single numbers.
        keep_ratio: fit into the drawn size instead of filling it.
        interpolation: as in ``Resize``.
        antialias: as in ``Resize``.
        backend: as in ``Resize``.
    """

    def __init__(self, scales: Sequence[int | Sequence[int]] | None = None,
                 ratio_range: Sequence[float] | None = None,
                 base: Sequence[int] | None = None,
                 mode: Literal['choice', 'range'] = 'choice', longer: int | None = None,
                 keep_ratio: bool = True, interpolation: str = 'bilinear',
                 antialias: bool = True, backend: Backend = 'torch'):
        super().__init__(interpolation, antialias, backend)
        if (scales is None) == (ratio_range is None):
            raise ValueError('RandomResize needs either scales or ratio_range')
        if mode not in ('choice', 'range'):
            raise ValueError(f"mode must be 'choice' or 'range', got {mode!r}")
        if mode == 'range' and scales is not None and len(scales) != 2:
            raise ValueError(f"mode='range' needs two scales, got {scales}")
        if ratio_range is not None and not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(f'ratio_range must be 0 < low <= high, got {ratio_range}')
        self.scales = scales
        self.ratio_range = ratio_range
        self.base = None if base is None else check_size(base, 'base')
        self.mode = mode
        self.longer = longer
        self.keep_ratio = keep_ratio

    def plan(self, results: Results) -> Move:
        """Draw the new size."""
        height, width = results['img'].shape[:2]
        return self._move_to(results, self._draw(height, width))

    def _draw(self, height: int, width: int) -> tuple[int, int]:
        if self.scales is None:
            assert self.ratio_range is not None
            ratio = draw_between(self.ratio_range)
            if self.base is None:
                return scaled_size(height, width, ratio)
            size = scaled_size(*self.base, ratio)
        else:
            scale = self._draw_scale()
            if isinstance(scale, int):
                return Resize(shorter=scale, longer=self.longer).new_size(height, width)
            size = scale
        return Resize(size, keep_ratio=self.keep_ratio).new_size(height, width)

    def _draw_scale(self) -> int | tuple[int, int]:
        assert self.scales is not None
        if self.mode == 'choice':
            scale = self.scales[np.random.randint(len(self.scales))]
            return scale if isinstance(scale, int) else check_size(scale, 'scales')
        low, high = self.scales
        if isinstance(low, int) and isinstance(high, int):
            return int(np.random.randint(min(low, high), max(low, high) + 1))
        pairs = np.array([check_size(low, 'scales'), check_size(high, 'scales')])
        drawn = np.random.randint(pairs.min(axis=0), pairs.max(axis=0) + 1)
        return int(drawn[0]), int(drawn[1])
