"""From whatever a user calls images to RGB arrays, one at a time."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from torch import Tensor

from openlab.data.datasets.base import IMAGE_SUFFIXES
from openlab.data.errors import DataError
from openlab.data.transforms.loading import decode_image, read_file
from openlab.visualization.draw import as_rgb

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
ChannelOrder = Literal['rgb', 'bgr']


@dataclass
class Video:
    """A video that frames come from."""

    path: str
    fps: float
    num_frames: int


@dataclass
class InputImage:
    """One image to predict on.

    Attributes:
        name: what to call it in messages and results: its path, or its number.
        image: (H, W, 3) RGB uint8.
        path: its file, if it came from one; for a frame, the file of the video.
        video: the video it is a frame of.
        frame: number of the frame, from 0.
    """

    name: str
    image: np.ndarray
    path: str | None = None
    video: Video | None = None
    frame: int | None = None


@dataclass
class BadInput:
    """An input that could not be read, and why."""

    name: str
    error: DataError


def expand(images: Any) -> Iterator[Any]:
    """Single inputs in order: nested lists, folders and globs are opened, nothing is read.

    Args:
        images: a path, folder, glob pattern, video, array, tensor, PIL image or encoded bytes;
            or an iterable of any of these.
    """
    if isinstance(images, (str, Path)):
        yield from _expand_path(images)
    elif isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
        yield from images
    elif isinstance(images, (np.ndarray, Tensor, bytes)) or hasattr(images, 'getbands'):
        yield images
    elif isinstance(images, Iterable):
        for one in images:
            yield from expand(one)
    else:
        raise TypeError(
            f'cannot take {type(images).__name__} for an image; give a path, folder, glob, video, '
            'array, tensor, PIL image, encoded bytes, or an iterable of these'
        )


def _expand_path(path: str | Path) -> Iterator[Any]:
    found = Path(path)
    if found.is_dir():
        files: list[Any] = [f for f in sorted(found.rglob('*')) if f.suffix.lower() in _SUFFIXES]
        yield from files or [BadInput(str(path), DataError(
            f'folder without images: {path} (looked for {", ".join(IMAGE_SUFFIXES)} and videos)'))]
    elif not found.exists() and glob.has_magic(str(path)):
        paths = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
        hits: list[Any] = [p for p in paths if p.is_file()]
        yield from hits or [
            BadInput(str(path), DataError(f'pattern matches no file: {path}'))]
    else:
        yield found


_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def count(images: Any) -> int | None:
    """How many images there will be (frames of videos counted); ``None`` for a generator."""
    if not isinstance(images, (str, Path, bytes, Sized)) and not hasattr(images, 'getbands'):
        return None
    return sum(
        _open_video(one)[1].num_frames if _is_video(one) and one.exists() else 1
        for one in expand(images)
    )


def read(images: Any, channel_order: ChannelOrder = 'rgb') -> Iterator[InputImage | BadInput]:
    """Read inputs one after the other.

    Args:
        images: see ``expand``.
        channel_order: of arrays and tensors with three channels; files are always right.

    Yields:
        An image for each input and frame, or what is wrong with it.
    """
    if channel_order not in ('rgb', 'bgr'):
        raise ValueError(f"channel_order must be 'rgb' or 'bgr', not {channel_order!r}")
    for number, one in enumerate(expand(images)):
        if isinstance(one, BadInput):
            yield one
        elif _is_video(one):
            yield from _frames(one)
        else:
            try:
                yield _one(one, number, channel_order)
            except DataError as error:
                yield BadInput(str(one) if isinstance(one, Path) else f'image {number}', error)


def _one(one: Any, number: int, channel_order: ChannelOrder) -> InputImage:
    name = f'image {number}'
    if isinstance(one, Path):
        return InputImage(str(one), decode_image(read_file(one), str(one)), str(one))
    if isinstance(one, bytes):
        return InputImage(name, decode_image(one, name))
    if hasattr(one, 'getbands'):
        from PIL import ImageOps

        return InputImage(name, np.asarray(ImageOps.exif_transpose(one).convert('RGB')).copy())
    try:
        image = as_rgb(one)
    except ValueError as error:
        raise DataError(f'{name}: {error}') from error
    is_colour = channel_order == 'bgr' and min(one.shape) > 1 and one.ndim == 3
    return InputImage(name, np.ascontiguousarray(image[..., ::-1]) if is_colour else image)


def _is_video(one: Any) -> bool:
    return isinstance(one, Path) and one.suffix.lower() in VIDEO_SUFFIXES


def _open_video(path: Path) -> tuple[cv2.VideoCapture, Video]:
    capture = cv2.VideoCapture(str(path))
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    return capture, Video(str(path), fps, max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0))


def _frames(path: Path) -> Iterator[InputImage | BadInput]:
    if not path.exists():
        yield BadInput(str(path), DataError(f'video file is missing: {path}'))
        return
    capture, video = _open_video(path)
    frame = 0
    try:
        while True:
            ok, image = capture.read()
            if not ok:
                break
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield InputImage(f'{path} frame {frame}', rgb, str(path), video, frame)
            frame += 1
    finally:
        capture.release()
    if frame == 0:
        yield BadInput(str(path), DataError(f'not a video, or damaged: {path}'))
