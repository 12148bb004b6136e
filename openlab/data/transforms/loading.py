"""From a file to an RGB array."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal

import cv2
import numpy as np

from openlab.data.errors import DataError
from openlab.data.transforms.base import Results, Transform
from openlab.registry import TRANSFORMS

simplejpeg: ModuleType | None = import_module('simplejpeg') if find_spec('simplejpeg') else None

# OpenCV >= 4.11 decodes to RGB by itself; its flag excludes that of BGR, which is 1.
_RGB: int | None = getattr(cv2, 'IMREAD_COLOR_RGB', None)
_REDUCED = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
_TIED_TO_IMAGE = ('boxes', 'segmentation', 'masks', 'keypoints', 'seg_path', 'semantic_map',
                  'panoptic_path')


@TRANSFORMS.register_module()
class LoadImage(Transform):
    """Read the image of an item: a path, encoded bytes (``img_bytes``) or an array (``img``).

    The result is (H, W, 3) RGB uint8: EXIF orientation applied, grayscale repeated to three
    channels, alpha dropped, 16 bit reduced to its upper 8. A file that ends too early is an
    error although decoders return half an image for it.

    Args:
        keep_depth: keep 16 bit as uint16.
        allow_truncated: take half an image with gray below instead of raising an error.
        backend: ``cv2``, or ``pillow`` for formats that only it reads. Where the package
            ``simplejpeg`` is installed, ``cv2`` leaves ordinary JPEGs to it: the same pixels, a
            tenth sooner.
        shrink_to: for large JPEGs that are resized next: decode at a half, quarter or eighth of
            the size while the shorter edge stays at least this long. Several times faster, and
            after an antialiased resize the same image up to one or two steps of 255 in the mean;
            ``ori_shape`` stays that of the file. Items with boxes, masks, keypoints or a
            semantic map are decoded whole.
        fast: for training: let ``simplejpeg`` decode with the short cosine transform and repeat
            colour samples instead of blending them, a seventh sooner and in the mean one or two
            steps of 255 away, at the edges of colours more. Nothing changes without the package.
    """

    def __init__(self, keep_depth: bool = False, allow_truncated: bool = False,
                 backend: Literal['cv2', 'pillow'] = 'cv2', shrink_to: int | None = None,
                 fast: bool = False):
        if backend not in ('cv2', 'pillow'):
            raise ValueError(f"backend must be 'cv2' or 'pillow', got {backend!r}")
        self.keep_depth = keep_depth
        self.allow_truncated = allow_truncated
        if shrink_to is not None and (backend == 'pillow' or keep_depth):
            raise ValueError("shrink_to needs backend='cv2' and keep_depth=False")
        if fast and (backend == 'pillow' or keep_depth):
            raise ValueError("fast needs backend='cv2' and keep_depth=False")
        self.backend = backend
        self.shrink_to = shrink_to
        self.fast = fast

    def __call__(self, results: Results) -> Results:
        """Decode, and note the size."""
        image = results.get('img')
        if image is None:
            data, name = self._bytes_of(results)
            reduce = self._reduction(data, results)
            image = decode_image(data, name, self.keep_depth, self.allow_truncated, self.backend,
                                 reduce, self.fast)
            if reduce > 1:
                return self._shrunk(results, image, data)
        results['img'] = as_rgb(image)
        results['ori_shape'] = results['img_shape'] = results['img'].shape[:2]
        return results

    def _reduction(self, data: bytes, results: Results) -> int:
        size = jpeg_size(data) if self.shrink_to is not None else None
        if size is None or self.shrink_to is None or any(k in results for k in _TIED_TO_IMAGE):
            return 1
        return next((r for r in (8, 4, 2) if min(size) // r >= self.shrink_to), 1)

    def _shrunk(self, results: Results, image: np.ndarray, data: bytes) -> Results:
        whole = jpeg_size(data)
        assert whole is not None
        height, width = image.shape[:2]
        if (width > height) != (whole[1] > whole[0]):  # turned by its EXIF orientation
            whole = whole[::-1]
        factor = width / whole[1], height / whole[0]
        results.update(img=image, ori_shape=whole, img_shape=(height, width),
                       scale_factor=factor, matrix=np.diag([*factor, 1.0]))
        return results

    def _bytes_of(self, results: Results) -> tuple[bytes, str]:
        if results.get('img_bytes') is not None:
            return results['img_bytes'], 'bytes in img_bytes'
        if 'img_path' not in results:
            raise DataError(f"LoadImage needs 'img_path', 'img_bytes' or 'img'; the item has "
                            f'{sorted(results)}')
        return read_file(results['img_path']), str(results['img_path'])


def read_file(path: str | Path) -> bytes:
    """Bytes of a file.

    Raises:
        DataError: if it is missing, empty or may not be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f'image file is missing: {path}') from None
    except OSError as error:
        raise DataError(f'image file cannot be read: {path} ({error.strerror})') from error
    if not data:
        raise DataError(f'image file is empty: {path}')
    return data


def decode_image(data: bytes, name: str = 'bytes', keep_depth: bool = False,
                 allow_truncated: bool = False, backend: str = 'cv2',
                 reduce: int = 1, fast: bool = False) -> np.ndarray:
    """Decode to (H, W, 3) RGB.

    Args:
        data: the encoded image.
        name: what to call it in errors.
        keep_depth: keep 16 bit as uint16.
        allow_truncated: accept what can be decoded of an incomplete file.
        backend: ``cv2`` (or ``simplejpeg`` in its place, see ``LoadImage``) or ``pillow``.
        reduce: 2, 4 or 8 decodes a JPEG at that part of its size, which is much faster.
        fast: see ``LoadImage``.

    Raises:
        DataError: if this is no image, or an incomplete one.
    """
    if not allow_truncated and not is_complete(data):
        raise DataError(f'image file is truncated: {name} ({len(data)} bytes, no end marker)')
    if backend == 'pillow' or (allow_truncated and not is_complete(data)):
        return _decode_pillow(data, name, allow_truncated)
    image = _decode_simplejpeg(data, reduce, fast)
    if image is not None:
        return image
    flags = _REDUCED[reduce] | (cv2.IMREAD_COLOR if _RGB is None else _RGB)
    try:
        buffer = np.frombuffer(data, dtype=np.uint8)
        image = cv2.imdecode(buffer, flags | (cv2.IMREAD_ANYDEPTH if keep_depth else 0))
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f'not an image, or damaged: {name} ({len(data)} bytes, begins with '
                        f'{data[:8]!r})')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if _RGB is None else image


def _decode_simplejpeg(data: bytes, reduce: int, fast: bool) -> np.ndarray | None:
    """Decode a JPEG; ``None`` leaves it to OpenCV, which turns by EXIF and mends damage."""
    if simplejpeg is None:
        return None
    size = jpeg_size(data, only_plain=True)
    if size is None:
        return None
    try:
        if reduce == 1:
            return simplejpeg.decode_jpeg(data, fastdct=fast, fastupsample=fast)
        height, width = -(-size[0] // reduce), -(-size[1] // reduce)
        image = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=1,
                                       fastdct=fast, fastupsample=fast)
    except ValueError:
        return None
    return image if image.shape[:2] == (height, width) else None


def _decode_pillow(data: bytes, name: str, allow_truncated: bool) -> np.ndarray:
    import io

    from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = allow_truncated
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB')).copy()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f'not an image, or damaged: {name} ({error})') from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def is_complete(data: bytes) -> bool:
    """Whether a JPEG or PNG file reaches its end marker; other formats count as complete.

    In JPEG data a marker byte cannot occur inside the coded pixels, so a file cut there has no
    end marker after its last start of scan. (One of a thumbnail stands before it.)
    """
    if data[:3] == b'\xff\xd8\xff':
        return data.endswith(b'\xff\xd9') or data.rfind(b'\xff\xd9') > data.rfind(b'\xff\xda')
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        return data.rfind(b'IEND') >= 0
    return True


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Bring an array to (H, W, 3): repeat gray, drop alpha.

    Raises:
        DataError: if its shape is that of no image.
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=-1)
    if image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise DataError(f'an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), '
                        f'got {image.shape}')
    return np.ascontiguousarray(image[..., :3])


def read_map(path: str | Path) -> np.ndarray:
    """Read an image of indices (a semantic map, say) as it is, (H, W); a palette stays indices.

    Raises:
        DataError: if the file is missing or not a single-channel image.
    """
    import io

    from PIL import Image, UnidentifiedImageError

    data = read_file(path)
    if not is_complete(data):
        raise DataError(f'image file is truncated: {path} ({len(data)} bytes, no end marker)')
    try:
        with Image.open(io.BytesIO(data)) as image:
            array: np.ndarray = np.asarray(image).copy()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f'not an image, or damaged: {path} ({error})') from error
    if array.ndim != 2:
        raise DataError(f'a map of class indices must have one channel, {path} has shape '
                        f'{array.shape}')
    return array


def jpeg_size(data: bytes, only_plain: bool = False) -> tuple[int, int] | None:
    """(H, W) as the header of a JPEG states it, before any EXIF turn; ``None`` for others.

    Args:
        data: the encoded image.
        only_plain: ``None`` too for a JPEG with EXIF data, or that is not gray or of three
            channels with 8 bits in Huffman coding.
    """
    if data[:3] != b'\xff\xd8\xff':
        return None
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        # Start of frame, of any coding; C4, C8 and CC are other things.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if only_plain and not (marker <= 0xC2 and data[place + 4] == 8
                                   and data[place + 9] in (1, 3)):
                return None
            return (int.from_bytes(data[place + 5:place + 7], 'big'),
                    int.from_bytes(data[place + 7:place + 9], 'big'))
        if only_plain and marker == 0xE1 and data[place + 4:place + 8] == b'Exif':
            return None
        place += 2 + int.from_bytes(data[place + 2:place + 4], 'big')
    return None
