"""Smooth text on images, with a font that is there wherever matplotlib is.

OpenCV's built-in letters are thin strokes without accents; these are DejaVu Sans.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
BLACK: Colour = (24, 24, 27)
WHITE: Colour = (255, 255, 255)


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font at a size in pixels."""
    spec = importlib.util.find_spec('matplotlib')
    if spec is not None and spec.origin is not None:
        name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
        file = Path(spec.origin).parent / 'mpl-data' / 'fonts' / 'ttf' / name
        if file.exists():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def text_width(text: str, size: int, bold: bool = False) -> int:
    """Width of one line in pixels."""
    return int(np.ceil(font(size, bold).getlength(text)))


def line_height(size: int) -> int:
    """Height of one line in pixels, room for accents and tails included."""
    return round(size * 1.3)


def shorten(text: str, width: int, size: int, bold: bool = False) -> str:
    """Cut a text so that it fits into ``width`` pixels; an ellipsis marks the cut."""
    if text_width(text, size, bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle] + '…', size, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + '…'


def wrap(text: str, width: int, size: int, bold: bool = False) -> list[str]:
    """Break a text into lines of at most ``width`` pixels."""
    lines = ['']
    for word in text.split():
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and text_width(longer, size, bold) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shorten(line, width, size, bold) for line in lines]


class Pen:
    """Writes several texts onto one image, which is converted only once.

    Args:
        image: RGB, (H, W, 3) uint8; not changed.
    """

    def __init__(self, image: np.ndarray):
        self._image = Image.fromarray(image)
        self._draw = ImageDraw.Draw(self._image)

    def write(self, text: str, x: float, y: float, size: int, colour: Colour = BLACK,
              bold: bool = False) -> None:
        """Write one line; (x, y) is the top left corner of a box of ``line_height(size)``."""
        middle = y + line_height(size) / 2
        self._draw.text((x, middle), text, fill=colour, font=font(size, bold), anchor='lm')

    def tag(self, text: str, x: float, y: float, size: int, background: Colour) -> None:
        """Write one line on a filled box, kept inside of the image."""
        width, height = text_width(text, size) + size // 2, line_height(size)
        x = max(0, min(x, self._image.width - width))
        y = max(0, min(y, self._image.height - height))
        self.box(x, y, width, height, background)
        self.write(text, x + size // 4, y, size, contrast(background))

    def box(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """Fill a box."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)

    def result(self) -> np.ndarray:
        """Return the image with everything on it."""
        return np.array(self._image)


def contrast(background: Colour) -> Colour:
    """Black or white, whichever reads better on ``background``."""
    red, green, blue = background
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE
