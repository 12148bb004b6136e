"""The one record that every task reads truth from and writes predictions to.

N objects · K classes · J keypoints per object · H, W image height and width · T tokens
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal['integer', 'float', 'bool']
# Shapes by name: a letter stands for any size.
_LAYOUT: dict[str, tuple[tuple[str | int, ...], Kind]] = {
    'label': ((), 'integer'), 'label_probs': (('K',), 'float'), 'boxes': (('N', 4), 'float'),
    'labels': (('N',), 'integer'), 'scores': (('N',), 'float'),
    'masks': (('N', 'H', 'W'), 'bool'), 'keypoints': (('N', 'J', 3), 'float'),
    'is_crowd': (('N',), 'bool'), 'semantic_map': (('H', 'W'), 'integer'),
    'panoptic_map': (('H', 'W'), 'integer'), 'tokens': (('T',), 'integer'),
    'target_tokens': (('T',), 'integer'), 'document_ids': (('T',), 'integer'),
}
_PER_OBJECT = ('boxes', 'labels', 'scores', 'masks', 'keypoints', 'is_crowd')


@dataclass(eq=False)
class DataSample:
    """What is known, or predicted, about one item; fields that do not apply stay ``None``.

    Truth and prediction are two samples of this one type: ``predict`` returns new samples which
    carry the ``meta`` of the truth they answer.

    Attributes:
        meta: plain values about the item: ``img_path``, ``img_id``, ``ori_shape`` (H, W before
            any transform), ``img_shape`` (H, W now), ``scale_factor`` (w, h), ``flip`` ...
        label: class index, () int64.
        label_probs: class probabilities: soft or multi-label truth (-1: not known), or prediction,
            (K,) float.
        boxes: xyxy in pixels of the current image, (N, 4) float.
        labels: class index of each object, (N,) int64.
        scores: confidence of each object, (N,) float.
        masks: one binary mask for each object, (N, H, W) bool.
        keypoints: x, y, visibility of each point, (N, J, 3) float.
        is_crowd: objects that stand for a group and are ignored in matching, (N,) bool.
        semantic_map: class index of each pixel, 255 = ignored, (H, W) int64.
        panoptic_map: segment id of each pixel, 0 = none, (H, W) int64.
        segments: one dict (id, label, score, is_crowd) for each id in ``panoptic_map``.
        tokens: token ids, (T,) int64.
        target_tokens: what each position must predict, -100 = ignored, (T,) int64.
        document_ids: which packed document each token belongs to, (T,) int64.
        text: decoded text, or raw text before tokenization.
        extra: what a researcher's own task adds; tensors in it follow ``to``.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    label: Tensor | None = None
    label_probs: Tensor | None = None
    boxes: Tensor | None = None
    labels: Tensor | None = None
    scores: Tensor | None = None
    masks: Tensor | None = None
    keypoints: Tensor | None = None
    is_crowd: Tensor | None = None
    semantic_map: Tensor | None = None
    panoptic_map: Tensor | None = None
    segments: list[dict[str, Any]] | None = None
    tokens: Tensor | None = None
    target_tokens: Tensor | None = None
    document_ids: Tensor | None = None
    text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DataSample:
        """Return a copy whose tensors live on ``device``."""
        moved = object.__new__(type(self))  # copy.copy would take many times as long
        values = vars(moved)
        values.update(vars(self))
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device, non_blocking=non_blocking)
        moved.extra = {
            k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v
            for k, v in self.extra.items()
        }
        return moved

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of every tensor field that is set."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                yield f.name, value

    def validate(self, num_classes: int | None = None) -> DataSample:
        """Check types and shapes of what is set, and that its parts fit together.

        Args:
            num_classes: K, to check the range of labels as well.

        Returns:
            The sample itself.

        Raises:
            TypeError: where a field is no tensor, or of the wrong kind of numbers.
            ValueError: where a shape or a value is wrong; the message names field and item.
        """
        where = self.meta.get('img_path', self.meta.get('img_id', 'a sample'))
        for name, (shape, kind) in _LAYOUT.items():
            value = getattr(self, name)
            if value is not None:
                _check_field(f'{name} of {where}', value, shape, kind)
        counts = {n: len(getattr(self, n)) for n in _PER_OBJECT if getattr(self, n) is not None}
        if len(set(counts.values())) > 1:
            raise ValueError(f'{where}: numbers of objects differ: {counts}')
        if num_classes is not None:
            for name in ('label', 'labels'):
                value = getattr(self, name)
                if value is None or not value.numel():
                    continue
                if int(value.min()) < 0 or int(value.max()) >= num_classes:
                    bad = value[(value < 0) | (value >= num_classes)].flatten()[0]
                    raise ValueError(f'{name} of {where} must be from 0 to num_classes - 1 = '
                                     f'{num_classes - 1}, got {int(bad)}')
        return self

    def __len__(self) -> int:
        """Number of objects (N); 0 where the task has none."""
        for value in (self.boxes, self.labels, self.masks, self.keypoints):
            if value is not None:
                return len(value)
        return 0

    def __repr__(self) -> str:
        parts = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or value == {}:
                continue
            if isinstance(value, Tensor):
                small = value.numel() == 1
                text = str(value.item()) if small else f'{tuple(value.shape)} {value.dtype}'
                parts.append(f'{f.name}={text.replace("torch.", "")}')
            else:
                parts.append(f'{f.name}={value!r}')
        return f'DataSample({", ".join(parts)})'


def _check_field(name: str, value: Any, shape: tuple[str | int, ...], kind: Kind) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f'{name} must be a tensor, got {type(value).__name__}')
    is_kind = {
        'bool': value.dtype == torch.bool, 'float': value.is_floating_point(),
        'integer': not value.is_floating_point() and not value.is_complex()
        and value.dtype != torch.bool,
    }
    if not is_kind[kind]:
        raise TypeError(f'{name} must hold {kind} values, got {value.dtype}')
    fits = value.ndim == len(shape) and all(
        isinstance(want, str) or want == size for want, size in zip(shape, value.shape))
    if not fits:
        wanted = ', '.join(map(str, shape))
        raise ValueError(f'{name} must have shape ({wanted}), got {tuple(value.shape)}')
