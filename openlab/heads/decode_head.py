"""What heads that give a class to every pixel share: truth, losses, predictions.

B batch · K classes · H, W padded size of the network's input · h, w size of a feature map
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.structures.data_sample import DataSample

IGNORE = 255


class DecodeHead(nn.Module, ABC):
    """Base of heads that turn feature maps into logits of pixels.

    ``forward`` gives logits at the size of a feature map. The algorithm enlarges them to its
    input, and it is those that ``loss`` and ``predict`` get.

    Args:
        num_classes: K.
        loss: compares logits (B, K, H, W) with class indices (B, H, W); by default cross
            entropy over the pixels that are not ignored.
        extra_losses: further losses by name, such as ``dict(dice=dict(type=DiceLoss))``, which
            is reported as ``loss_dice``.
    """

    def __init__(
        self,
        num_classes: int,
        loss: ClassificationLoss | None = None,
        extra_losses: dict[str, nn.Module] | None = None,
    ):
        super().__init__()
        if extra_losses and 'seg' in extra_losses:
            raise ValueError("extra_losses must not use the name 'seg': it is that of loss")
        self.num_classes = num_classes
        self.loss_function: ClassificationLoss = loss or CrossEntropyLoss(ignore_index=IGNORE)
        self.extra_losses = nn.ModuleDict(extra_losses or {})

    @abstractmethod
    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w) of feature maps, finest first."""

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_seg``, further losses, and the number of pixels they are means over.

        Args:
            outputs: logits at the size of the input, (B, K, H, W).
            samples: with a ``semantic_map`` each; padding and 255 count for nothing.
        """
        H, W = outputs.shape[-2:]
        truth = stack_maps(samples, (H, W), self.num_classes)
        target = _with_ignored(truth, self.loss_function)
        losses = {'loss_seg': self.loss_function(outputs, target)}
        for name, function in self.extra_losses.items():
            losses[f'loss_{name}'] = function(outputs, _with_ignored(truth, function))
        return {**losses, 'num_items': self.loss_function.num_items(outputs, target)}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """The likeliest class of each pixel of each image, without padding.

        Returns:
            Samples with ``semantic_map``, in pixels of the network's input.
        """
        predictions = []
        for logits, sample in zip(outputs, samples, strict=True):
            height, width = sample.meta.get('img_shape', logits.shape[-2:])
            labels = logits[:, :height, :width].argmax(0)
            predictions.append(DataSample(meta=dict(sample.meta), semantic_map=labels))
        return predictions


def stack_maps(samples: list[DataSample], size: tuple[int, int], num_classes: int) -> Tensor:
    """Truth of a batch, (B, H, W): semantic maps, padded with 255 on the right and below.

    Raises:
        ValueError: if a sample has no map, one that is larger than the input, or (told on the
            CPU only, where looking costs nothing) one with a class that the head does not have.
    """
    maps = []
    for sample in samples:
        truth = sample.semantic_map
        if truth is None:
            raise ValueError(f'{_name(sample)} has no semantic_map; the pipeline must load one '
                             '(LoadAnnotations) to train on it')
        missing = size[0] - truth.shape[0], size[1] - truth.shape[1]
        if min(missing) < 0:
            raise ValueError(f'the semantic_map of {_name(sample)} is {tuple(truth.shape)}, larger '
                             f'than the input {size}: the transforms must move both alike')
        if truth.device.type == 'cpu':
            _check_labels(sample, truth, num_classes)
        maps.append(F.pad(truth, (0, missing[1], 0, missing[0]), value=IGNORE))
    return torch.stack(maps)


def channels_at(in_channels: int | Sequence[int] | None, index: int, owner: nn.Module) -> int:
    """Channels of the feature map that a head takes.

    Args:
        in_channels: of one map or of all maps.
        index: which of the maps.
        owner: the head, for the message.

    Raises:
        ValueError: if nothing is known, or there is no such map.
    """
    name = type(owner).__name__
    if in_channels is None:
        raise ValueError(f'{name} needs in_channels: nothing feeds it that has out_channels')
    if isinstance(in_channels, int):
        return in_channels
    if not -len(in_channels) <= index < len(in_channels):
        raise ValueError(f'{name} takes feature map {index} but only {len(in_channels)} come '
                         f'(in_channels={tuple(in_channels)}); add stages to out_stages of the '
                         'backbone')
    return in_channels[index]


def resize_map(x: Tensor, size: Sequence[int] | torch.Size) -> Tensor:
    """Bilinear resizing of (B, C, h, w) to (B, C, H, W), corners of corner pixels fixed."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)


def resize_map_thinly(x: Tensor, size: Sequence[int] | torch.Size, step: int,
                      place: tuple[int, int]) -> Tensor:
    """``resize_map(x, size)[..., top::step, left::step]``, without what is left out of it.

    Bilinear resizing is linear along either side, so that a small matrix does for each.

    Args:
        x: maps (B, C, h, w).
        size: (H, W) of the resized map.
        step: rows and columns from one that is kept to the next.
        place: the first row and column, (top, left).
    """
    for side, begin in enumerate(place):
        x = x.transpose(-1, -2) if side else x
        unit = torch.eye(x.shape[-2], device=x.device)[None]
        matrix = F.interpolate(unit, size=size[side], mode='linear', align_corners=False)[0].T
        x = matrix[begin::step].to(x.dtype) @ x.contiguous()
        x = x.transpose(-1, -2) if side else x
    return x


def _with_ignored(truth: Tensor, function: nn.Module) -> Tensor:
    """Truth with 255 as the number that a loss ignores."""
    ignored = getattr(function, 'ignore_index', IGNORE)
    return truth if ignored == IGNORE else truth.masked_fill(truth == IGNORE, ignored)


def _check_labels(sample: DataSample, truth: Tensor, num_classes: int) -> None:
    wrong = ((truth >= num_classes) | (truth < 0)) & (truth != IGNORE)
    if wrong.any():
        raise ValueError(
            f'the semantic_map of {_name(sample)} holds class {int(truth[wrong][0])}, but the head '
            f'has num_classes={num_classes} (0 to {num_classes - 1}; {IGNORE} is ignored); set '
            'model.head.num_classes or ignore_index of the dataset')


def _name(sample: DataSample) -> str:
    return f'sample {sample.meta.get("img_path") or sample.meta.get("img_id", "without a name")}'
