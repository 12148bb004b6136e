"""Semantic segmentation: a backbone, optionally a neck, and a head that classifies every pixel.

All semantic segmentors share this way: feature maps, logits at the size of a map, logits enlarged
to the input. Large images may be seen through a window that slides over them, whose overlapping
logits are averaged. What makes an algorithm (FCN, DeepLab, SegFormer) is its head.

B batch · K classes · H, W padded size of the input
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.heads.decode_head import resize_map, resize_map_thinly
from openlab.structures.data_sample import DataSample


class SegmentationOutputs(NamedTuple):
    """Raw outputs for a batch.

    Attributes:
        logits: scores of each pixel of the input, (B, K, H, W); in training with ``loss_step``
            only of those that losses look at.
        auxiliary: those of the auxiliary head, in training where there is one.
        place: first row and column that losses look at.
    """

    logits: Tensor
    auxiliary: Tensor | None = None
    place: tuple[int, int] = (0, 0)


class SemanticSegmentor(Algorithm):
    """Backbone, neck and decode head in a row, an auxiliary head beside it.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to maps.
        head: maps to logits (B, K, h, w); has ``loss`` and ``predict``.
        auxiliary_head: a second head on the same maps that helps training and is left out of
            evaluation. Its losses are reported with ``aux`` in their names.
        auxiliary_weight: factor of its losses.
        window: (height, width) of the sliding window in evaluation, or one number for both;
            ``None`` looks at the whole image at once.
        stride: step of the window; by default two thirds of it.
        loss_step: losses look at one row and one column of so many, from a random place on. On
            average that is the same loss, for a fraction of the time where maps are fine and the
            network is small.
        preprocessor: see ``Algorithm``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        *,
        head: nn.Module,
        auxiliary_head: nn.Module | None = None,
        auxiliary_weight: float = 0.4,
        window: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        loss_step: int = 1,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.backbone = backbone
        self.neck = neck
        self.head: Any = head
        self.auxiliary_head: Any = auxiliary_head
        self.auxiliary_weight = auxiliary_weight
        if loss_step < 1:
            raise ValueError(f'loss_step must be at least 1, not {loss_step}')
        self.loss_step = loss_step
        if window is None and stride is not None:
            raise ValueError(f'stride={stride} needs a window to slide; give window as well')
        self.window = None if window is None else _pair(window, 'window')
        self.stride: tuple[int, int] | None = None
        if self.window is not None:
            default = [max(side * 2 // 3, 1) for side in self.window]
            self.stride = _pair(stride or default, 'stride')
            if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
                raise ValueError(f'stride={self.stride} is larger than window={self.window}: '
                                 'pixels between two windows would be left out')

    def outputs(self, inputs: Tensor,
                samples: list[DataSample] | None = None) -> SegmentationOutputs:
        """Logits of images (B, 3, H, W); through the window in evaluation, if there is one."""
        if self.training or self.window is None:
            return self._whole(inputs)
        return SegmentationOutputs(self._through_windows(inputs))

    def _whole(self, inputs: Tensor) -> SegmentationOutputs:
        return self.outputs_of_maps(self.backbone(inputs), inputs)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> SegmentationOutputs:
        """Logits of images whose maps the backbone gave; no window slides over maps."""
        if self.neck is not None:
            feats = self.neck(feats)
        size = inputs.shape[-2:]
        heads = [self.head]
        if self.training and self.auxiliary_head is not None:
            heads.append(self.auxiliary_head)
        place: Any = (0, 0)
        if self.training and self.loss_step > 1:
            place = tuple(torch.randint(self.loss_step, (2,)).tolist())
            maps = [resize_map_thinly(head(feats), size, self.loss_step, place) for head in heads]
        else:
            maps = [resize_map(head(feats), size) for head in heads]
        return SegmentationOutputs(maps[0], maps[1] if len(maps) > 1 else None, place)

    def _through_windows(self, inputs: Tensor) -> Tensor:
        """Mean of the logits (B, K, H, W) of all windows that show a pixel."""
        assert self.window is not None and self.stride is not None
        (H, W), K = inputs.shape[-2:], self.head.num_classes
        height, width = min(self.window[0], H), min(self.window[1], W)
        total = inputs.new_zeros((len(inputs), K, H, W))
        times = inputs.new_zeros((H, W))
        for y in window_places(H, height, self.stride[0]):
            for x in window_places(W, width, self.stride[1]):
                rows, columns = slice(y, y + height), slice(x, x + width)
                total[..., rows, columns] += self._whole(inputs[..., rows, columns]).logits
                times[rows, columns] += 1
        return total / times

    def loss(self, outputs: SegmentationOutputs,
             samples: list[DataSample]) -> dict[str, Tensor]:
        """The head's losses, and in training those of the auxiliary head."""
        if self.training and self.loss_step > 1:
            samples = [thinned(sample, self.loss_step, outputs.place) for sample in samples]
        losses = self.head.loss(outputs.logits, samples)
        if outputs.auxiliary is not None:
            for name, value in self.auxiliary_head.loss(outputs.auxiliary, samples).items():
                if name.startswith('loss'):
                    renamed = name.replace('loss', 'loss_aux', 1)
                    losses[renamed] = value * self.auxiliary_weight
        return losses

    def predict(self, outputs: SegmentationOutputs,
                samples: list[DataSample]) -> list[DataSample]:
        """The head's predictions: ``semantic_map``, without padding."""
        return self.head.predict(outputs.logits, samples)

    def predict_views(self, inputs: Sequence[Tensor], samples: list[DataSample],
                      views: Sequence[Any]) -> list[DataSample]:
        """Predictions by the mean of the class probabilities over views of the same images.

        Args:
            inputs: the images of each view, (B, 3, H v, W v) for its scale v.
            samples: of the images, without what views changed.
            views: with ``scale`` and ``flip``; see ``openlab.engine.tta``. One must have scale 1:
                it has the size that predictions get.

        Raises:
            ValueError: if no view has scale 1.
        """
        sizes = [x.shape[-2:] for x, view in zip(inputs, views) if view.scale == 1]
        if not sizes:
            raise ValueError('tta.scales must hold 1.0 for segmentation: that is the size of the '
                             'predicted maps')
        total: Any = 0
        for x, view in zip(inputs, views, strict=True):
            probs = self.outputs(x).logits.softmax(1)
            total = total + resize_map(probs.flip(-1) if view.flip else probs, sizes[0])
        return self.predict(SegmentationOutputs(total), samples)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the backbone wants kept out of weight decay."""
        names: set[str] = getattr(self.backbone, 'no_weight_decay', set)()
        return {f'backbone.{name}' for name in names}


def window_places(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every ``stride``, the last one flush with the end."""
    last = length - window
    return [*range(0, last, stride), last]


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ValueError(f'{name} must be a positive whole number or (height, width), '
                         f'not {value!r}')
    return pair[0], pair[1]


def thinned(sample: DataSample, step: int, place: tuple[int, int]) -> DataSample:
    """The sample with every ``step``-th row and column of its map, from ``place`` on."""
    sample = copy.copy(sample)
    if sample.semantic_map is not None:
        sample.semantic_map = sample.semantic_map[place[0]::step, place[1]::step]
    return sample
