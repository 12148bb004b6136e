"""Images whose pixels are numbers: class indices (semantic) and segment ids (panoptic)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openlab.data.errors import DataError
from openlab.data.transforms.loading import decode_image, read_file, read_map

IGNORE = 255
_NOT_A_CLASS = 254


def read_semantic_map(path: str | Path, ignore_index: int | Sequence[int] = (),
                      reduce_zero_label: bool = False,
                      palette: Sequence[Sequence[int]] | None = None,
                      num_classes: int | None = None) -> np.ndarray:
    """A semantic map with 255 where it is to be ignored, (H, W).

    Args:
        path: a PNG of class indices (with or without a palette of its own), or of colours.
        ignore_index: values in the file, besides 255, that are ignored.
        reduce_zero_label: 0 in the file means "none": ignore it, and lower the others by 1.
        palette: colour of each class, where the file holds colours; others are ignored.
        num_classes: to check the range; at most 254.

    Raises:
        DataError: if the file cannot be read or has a class of ``num_classes`` or above.
    """
    if palette is not None:
        return _from_colours(path, np.asarray(palette, dtype=np.int64))
    found = read_map(path)
    ignored = [ignore_index] if isinstance(ignore_index, int) else list(ignore_index)
    if found.dtype == bool:
        found = found.astype(np.uint8)
    if not ignored and not reduce_zero_label and num_classes is None:
        return found
    if found.dtype != np.uint8:
        if found.min(initial=0) < 0 or found.max(initial=0) > IGNORE:
            bad = found[(found < 0) | (found > IGNORE)][0]
            raise DataError(f'the semantic map {path} has the value {bad}; classes must be from '
                            f'0 to {IGNORE - 1}')
        found = found.astype(np.uint8)
    table = np.arange(256)
    if num_classes is not None:
        shift = 1 if reduce_zero_label else 0
        table[num_classes + shift:] = _NOT_A_CLASS + shift
    if reduce_zero_label:
        table -= 1
    table[[v for v in (*ignored, IGNORE) if 0 <= v <= 255]] = IGNORE
    if reduce_zero_label:
        table[0] = IGNORE
    mapped: np.ndarray = cv2.LUT(found, table.astype(np.uint8))
    if num_classes is not None and (mapped == _NOT_A_CLASS).any():
        y, x = np.argwhere(mapped == _NOT_A_CLASS)[0]
        raise DataError(f'the semantic map {path} has class {found[y, x]} at x={x}, y={y}, but '
                        f'there are {num_classes} classes'
                        f'{" from 1 on" if reduce_zero_label else ", 0 to " + str(num_classes - 1)}'
                        f' ({IGNORE} is ignored; ignore_index= names other values)')
    return mapped


def _from_colours(path: str | Path, palette: np.ndarray) -> np.ndarray:
    image = decode_image(read_file(path), str(path)).astype(np.int64)
    keys = image @ [65536, 256, 1]
    wanted = palette @ [65536, 256, 1]
    order = np.argsort(wanted)
    place = np.searchsorted(wanted[order], keys).clip(0, len(wanted) - 1)
    classes = order[place]
    known = wanted[classes] == keys
    if not known.any():
        raise DataError(f'the semantic map {path} has no colour of the palette; its first pixel '
                        f'is {image[0, 0].tolist()}')
    return np.where(known, classes, IGNORE).astype(np.uint8)


def read_panoptic_map(path: str | Path, segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A panoptic PNG with segments renumbered as they are listed, (H, W) int32.

    Args:
        path: a PNG whose colours are ids: red + 256 green + 65536 blue.
        segments: each with its ``id`` in the file.

    Returns:
        n for the pixels of ``segments[n - 1]``, 0 for those of none.

    Raises:
        DataError: if the file has an id that is not listed.
    """
    colours = decode_image(read_file(path), str(path)).astype(np.int32)
    keys = colours[..., 0] + colours[..., 1] * 256 + colours[..., 2] * 65536
    ids = np.array([0, *(s['id'] for s in segments)], dtype=np.int32)
    order = np.argsort(ids, kind='stable').astype(np.int32)
    place = np.searchsorted(ids[order], keys).clip(0, len(ids) - 1)
    numbers: np.ndarray = order[place]
    unknown = ids[numbers] != keys
    if unknown.any():
        bad = keys[unknown]
        raise DataError(f'the panoptic map {path} has the id {bad[0]} in {(bad == bad[0]).sum()} '
                        f'pixels, which segments_info does not list')
    return numbers
