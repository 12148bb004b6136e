"""From a list of items to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from openlab.structures.data_sample import DataSample


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join items that ``PackInputs`` made.

    Inputs of one shape become one tensor; inputs that differ in size stay a list, which the
    preprocessor pads. Items that are lists of views give a list with the batch of each view. Any
    further key of the items becomes a list.

    Args:
        items: dicts with ``inputs`` (3, H, W), or a list of V of them, and ``sample``.

    Returns:
        ``{'inputs': (B, 3, H, W) or list of (3, H, W), 'samples': list of DataSample}``; of views,
        ``inputs`` is a list of V times (B, 3, H, W).
    """
    if not items:
        raise ValueError('cannot collate an empty batch')
    for item in items:
        if not isinstance(item, dict) or 'inputs' not in item or 'sample' not in item:
            keys = sorted(item) if isinstance(item, dict) else type(item).__name__
            raise ValueError(f"items need 'inputs' and 'sample', got {keys}; end the pipeline "
                             f"with dict(type='PackInputs')")
    inputs = [item['inputs'] for item in items]
    samples: list[DataSample] = [item['sample'] for item in items]
    joined = _stack_views(inputs) if isinstance(inputs[0], list) else _stack(inputs)
    batch: dict[str, Any] = {'inputs': joined, 'samples': samples}
    for key in items[0]:
        if key not in ('inputs', 'sample'):
            batch[key] = [item.get(key) for item in items]
    return batch


def _stack_views(items: list[list[Tensor]]) -> list[Tensor]:
    views = []
    for number, images in enumerate(zip(*items, strict=True)):
        batch = _stack(list(images))
        if not isinstance(batch, Tensor):
            raise ValueError(f'view {number} must have one size for all images, got '
                             f'{sorted({tuple(x.shape) for x in batch})}; end its pipeline of '
                             'MultiView with a crop or a resize to a fixed size')
        views.append(batch)
    return views


def _stack(inputs: list[Tensor]) -> Tensor | list[Tensor]:
    if len({(x.shape, x.dtype) for x in inputs}) > 1:
        return [_planes(x) if _is_interleaved(x) else x for x in inputs]
    if torch.utils.data.get_worker_info() is None:
        return _stack_into(inputs, inputs[0].new_empty((len(inputs), *inputs[0].shape)))
    # In a worker the batch is written straight into the shared memory that it travels in.
    first = inputs[0]
    storage = first._typed_storage()._new_shared(first.numel() * len(inputs), device=first.device)
    out = first.new(storage).resize_(len(inputs), *first.shape)
    return _stack_into(inputs, out)


def _stack_into(inputs: list[Tensor], out: Tensor) -> Tensor:
    if not all(map(_is_interleaved, inputs)):
        return torch.stack(inputs, out=out)
    for image, planes in zip(inputs, out.numpy(), strict=True):
        _write_planes(image, planes)
    return out


def _is_interleaved(image: Tensor) -> bool:
    """Whether this is the view of (H, W, 3) bytes that ``PackInputs`` gives."""
    return (image.dtype == torch.uint8 and image.ndim == 3 and len(image) > 1
            and image.stride() == (1, image.shape[2] * len(image), len(image)))


def _planes(image: Tensor) -> Tensor:
    out = image.new_empty(image.shape)
    _write_planes(image, out.numpy())
    return out


def _write_planes(image: Tensor, planes: np.ndarray) -> None:
    # Many times as fast as copying with strides.
    cv2.split(image.permute(1, 2, 0).numpy(), list(planes))
