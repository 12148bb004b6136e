"""The last steps of a pipeline: numbers and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlab.data.errors import DataError
from openlab.data.transforms.base import Results, Transform
from openlab.registry import TRANSFORMS
from openlab.structures.data_sample import DataSample

META_KEYS = ('img_path', 'img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
             'flip_direction', 'matrix')
EXTRA_KEYS = ('areas', 'ann_ids')
FIELDS: dict[str, torch.dtype] = {
    'label': torch.int64, 'label_probs': torch.float32, 'boxes': torch.float32,
    'labels': torch.int64, 'is_crowd': torch.bool, 'masks': torch.bool,
    'keypoints': torch.float32, 'semantic_map': torch.int64, 'panoptic_map': torch.int64,
    'tokens': torch.int64, 'target_tokens': torch.int64, 'document_ids': torch.int64,
}


@TRANSFORMS.register_module()
class Normalize(Transform):
    """Subtract the mean and divide by the standard deviation, to float32.

    The preprocessor of a model does this faster, for the whole batch at once; use this step only
    where a pipeline must give finished inputs.

    Args:
        mean: of each channel, on the scale of the image (0 to 255).
        std: of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = np.asarray(mean, dtype=np.float32)
        self.std = np.asarray(std, dtype=np.float32)
        if (self.std <= 0).any():
            raise ValueError(f'std must be positive, got {list(std)}')

    def __call__(self, results: Results) -> Results:
        """Normalise the image."""
        results['img'] = (results['img'].astype(np.float32) - self.mean) / self.std
        return results


@TRANSFORMS.register_module()
class PackInputs(Transform):
    """End a pipeline: image to tensor (3, H, W), all truth to a ``DataSample``.

    Where ``MultiView`` made views of the image, the inputs are a list of them.

    Args:
        meta_keys: results to keep in ``sample.meta``, on top of the usual ones.
        extra_keys: results to keep in ``sample.extra``, on top of ``areas`` and ``ann_ids`` of
            objects; arrays become tensors.
    """

    def __init__(self, meta_keys: Sequence[str] = (), extra_keys: Sequence[str] = ()):
        self.meta_keys = tuple(dict.fromkeys((*META_KEYS, *meta_keys)))
        self.extra_keys = tuple(dict.fromkeys((*EXTRA_KEYS, *extra_keys)))

    def __call__(self, results: Results) -> dict[str, Any]:
        """``{'inputs': tensor or list of tensors, 'sample': DataSample}``."""
        fields = {name: _tensor(name, results[name], dtype) for name, dtype in FIELDS.items()
                  if results.get(name) is not None}
        sample = DataSample(
            meta={k: results[k] for k in self.meta_keys if k in results},
            text=results.get('text'), segments=_segments_left(results),
            extra={k: _extra(results[k]) for k in self.extra_keys if k in results},
            **fields,
        )
        packed: dict[str, Any] = {'sample': sample}
        if results.get('views') is not None:
            packed = {'inputs': [image_to_tensor(view) for view in results['views']], **packed}
        elif results.get('img') is not None:
            packed = {'inputs': image_to_tensor(results['img']), **packed}
        elif 'tokens' in fields:
            packed = {'inputs': fields['tokens'], **packed}
        return packed


def image_to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) array to (3, H, W) tensor of the same type.

    That of uint8 is a view of contiguous pixels, which ``collate`` parts into planes as it writes
    the batch.
    """
    if image.dtype != np.uint8:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _segments_left(results: Results) -> list[dict[str, Any]] | None:
    """Segments that the panoptic map still shows: crops take some away."""
    segments = results.get('segments')
    if segments is None or results.get('panoptic_map') is None:
        return segments
    counts = np.bincount(results['panoptic_map'].ravel())
    return [s for s in segments if s['id'] < len(counts) and counts[s['id']]]


def _tensor(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    try:
        if type(value) is int:
            return torch.tensor(value, dtype=dtype)
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value)).to(dtype)
        return torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f'{name} must become a tensor of {dtype}, got {value!r} '
                        f'({error})') from error


def _extra(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
