"""Reading text, JSON and image headers, with errors that name file and place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openlab.data.errors import DataError

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def read_text(path: str | Path) -> str:
    """A UTF-8 text file.

    Raises:
        DataError: if it is missing or not UTF-8; the message tells the first bad byte.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f'no such file: {path}') from None
    except OSError as error:
        raise DataError(f'cannot read {path} ({error.strerror})') from error
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise DataError(f'{path} is not UTF-8 text: byte 0x{data[error.start]:02x} in line '
                        f'{line}; save it as UTF-8') from None


def read_json(path: str | Path) -> Any:
    """A JSON file.

    Raises:
        DataError: if it is missing, empty, not UTF-8 or not JSON.
    """
    text = read_text(path)
    if not text.strip():
        raise DataError(f'{path} is empty')
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f'{path} is not JSON: {error.msg} in line {error.lineno}, column '
                        f'{error.colno}') from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image as ``LoadImage`` will give it; only the header is read.

    Raises:
        DataError: if it is missing or no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112) in _TURNED
    except FileNotFoundError:
        raise DataError(f'image file is missing: {path}') from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f'not an image, or damaged: {path} ({error})') from None
    return (width, height) if turned else (height, width)
