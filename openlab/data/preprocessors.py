"""From collated batches to what a network takes: on its device, normalised, padded, mixed.

B batch · H, W image height and width · K classes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional

from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample

Batch = dict[str, Any]


@MODELS.register_module()
class ImagePreprocessor(nn.Module):
    """Move images to the device, pad them to one size, and normalise the whole batch at once.

    Images travel as uint8, a quarter of the bytes of float. The constants are buffers that are
    not saved with the weights; ``preprocessing`` hands them to checkpoints and exports as data.

    Args:
        mean: of each channel, on the scale of the image (0 to 255).
        std: of each channel.
        pad_divisor: pad height and width to multiples of this.
        pad_value: padding before normalising, one number or one for each channel; by default
            the mean, which normalises to 0.
        batch_augments: augmentations of whole batches, such as ``MixUp``, in training only;
            each is called with ``(inputs, samples)`` and returns them.
        to_float: give float32; switch it off for networks that take uint8.
        channels_last: lay the pixels of all channels side by side in memory, which convolutions
            then keep. Values are the same. By default in evaluation on CPUs, where most networks
            are faster so; in training it depends on the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = (0.0, 0.0, 0.0),
                 std: Sequence[float] = (1.0, 1.0, 1.0), pad_divisor: int = 1,
                 pad_value: float | Sequence[float] | None = None,
                 batch_augments: Sequence[Callable[..., Any]] = (), to_float: bool = True,
                 channels_last: bool | None = None):
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f'mean and std must be equally long and std positive, '
                             f'got {list(mean)} and {list(std)}')
        if pad_divisor < 1:
            raise ValueError(f'pad_divisor must be at least 1, got {pad_divisor}')
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32)[:, None, None],
                             persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32)[:, None, None],
                             persistent=False)
        self.pad_divisor = pad_divisor
        self.pad_value = pad_value
        self.batch_augments = list(batch_augments)
        self.to_float = to_float
        self.channels_last = channels_last

    def forward(self, batch: Batch, training: bool = False) -> Batch:
        """Prepare a batch.

        Args:
            batch: ``inputs``, a (B, C, H, W) tensor or a list of (C, H, W); or views, a list of
                (B, C, H, W), each of which is prepared by itself; ``samples``, which may be left
                out. Other keys pass through.
            training: whether to augment.

        Returns:
            The batch with ``inputs`` (B, C, H', W'), or a list of these for views, and moved
            ``samples``; where images were padded, their ``meta`` says the new size as
            ``pad_shape``.
        """
        device = self.mean.device
        samples = batch.get('samples')
        if samples is not None:
            samples = [s.to(device, non_blocking=True) for s in samples]
        if isinstance(batch['inputs'], list) and batch['inputs'][0].ndim == 4:
            if self.batch_augments:
                raise ValueError('batch_augments mix images with their labels; they cannot be used '
                                 'on several views of an image')
            views = [self._prepared(view, None, training)[0] for view in batch['inputs']]
            return {**batch, 'inputs': views, 'samples': samples}
        inputs, samples = self._prepared(batch['inputs'], samples, training)
        return {**batch, 'inputs': inputs, 'samples': samples}

    def _prepared(self, images: Tensor | list[Tensor], samples: list[DataSample] | None,
                  training: bool) -> tuple[Tensor, Any]:
        inputs = self._normalised(images)
        if samples is not None:
            self._record_padding(images, inputs, samples)
        if training:
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        channels_last = self.channels_last
        if channels_last is None:
            channels_last = not training and inputs.device.type == 'cpu'
        if channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, samples

    def preprocessing(self) -> dict[str, Any]:
        """The constants as plain data, for checkpoints and exports."""
        return {
            'mean': self.mean.flatten().tolist(), 'std': self.std.flatten().tolist(),
            'pad_divisor': self.pad_divisor, 'pad_value': self._padding().tolist(),
            'channel_order': 'rgb', 'to_float': self.to_float,
        }

    def _padding(self) -> Tensor:
        if self.pad_value is None:
            return self.mean.flatten().round()
        value = torch.as_tensor(self.pad_value, dtype=torch.float32, device=self.mean.device)
        return value.expand(len(self.mean)).clone()

    def _normalised(self, inputs: Tensor | list[Tensor]) -> Tensor:
        device = self.mean.device
        images = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        height = self._padded(max(x.shape[-2] for x in images))
        width = self._padded(max(x.shape[-1] for x in images))
        if isinstance(inputs, Tensor) and inputs.shape[-2:] == (height, width):
            return self._normalise(inputs.to(device, non_blocking=True))
        if isinstance(inputs, Tensor):
            images = list(inputs)
        canvas = images[0].new_empty((len(images), images[0].shape[0], height, width),
                                     device=device)
        canvas[:] = self._padding().to(canvas.dtype)[:, None, None]
        for place, image in zip(canvas, images, strict=True):
            place[:, :image.shape[-2], :image.shape[-1]] = image.to(device, non_blocking=True)
        normalised = self._normalise(canvas)
        if self.pad_value is None and self.to_float:
            # The mean rounds on uint8; the padding of finished inputs is 0 to the last bit.
            for place, image in zip(normalised, images, strict=True):
                place[:, image.shape[-2]:] = 0
                place[:, :, image.shape[-1]:] = 0
        return normalised

    def _normalise(self, images: Tensor) -> Tensor:
        if not self.to_float:
            return images
        if images.device.type != 'cpu' or images.dtype != torch.uint8:
            return (images.float() - self.mean) / self.std
        # A byte has 256 values: looking them up is one pass over a plane, the arithmetic three.
        levels = torch.arange(256, dtype=torch.float32)
        tables = ((levels - self.mean[..., 0]) / self.std[..., 0]).numpy()
        out = torch.empty(images.shape, dtype=torch.float32)
        for place, image in zip(out.numpy(), images.numpy(), strict=True):
            for plane, values, table in zip(place, image, tables, strict=True):
                cv2.LUT(values, table, plane)
        return out

    def _padded(self, length: int) -> int:
        return -(-length // self.pad_divisor) * self.pad_divisor

    def _record_padding(self, before: Tensor | list[Tensor], after: Tensor,
                        samples: list[DataSample]) -> None:
        shape = tuple(after.shape[-2:])
        for image, sample in zip(before, samples, strict=True):
            if tuple(image.shape[-2:]) != shape:
                sample.meta = {**sample.meta, 'pad_shape': shape}


class _Mixing:
    """What MixUp and CutMix share: partners, soft labels, and how often.

    Labels become ``label_probs`` (K,) of each sample, mixed by the same weight as the images.

    Args:
        alpha: of the Beta distribution that the weight is drawn from.
        num_classes: K, to make probabilities of class indices.
        prob: how often a batch is mixed.
    """

    def __init__(self, alpha: float, num_classes: int, prob: float = 1.0):
        if alpha <= 0 or num_classes < 1 or not 0 <= prob <= 1:
            raise ValueError(f'need alpha > 0, num_classes >= 1 and prob within 0 and 1, got '
                             f'{alpha}, {num_classes} and {prob}')
        self.alpha = alpha
        self.num_classes = num_classes
        self.prob = prob

    def __call__(self, inputs: Tensor,
                 samples: list[DataSample]) -> tuple[Tensor, list[DataSample]]:
        """Mix a batch (B, C, H, W) with itself in another order."""
        if len(inputs) < 2 or torch.rand(()).item() >= self.prob:
            return inputs, samples
        # Drawn on the CPU, whose generator is the one that a resumed run restores.
        order = torch.randperm(len(inputs))
        weight = self._draw_weight()
        mixed, weight = self.mix(inputs, inputs[order.to(inputs.device)], weight)
        probs = [class_probs(s, self.num_classes) for s in samples]
        return mixed, [
            replace(s, label_probs=_mixed_probs(p, probs[int(other)], weight))
            for s, p, other in zip(samples, probs, order, strict=True)
        ]

    def mix(self, first: Tensor, second: Tensor, weight: float) -> tuple[Tensor, float]:
        """Join images; returns the weight of ``first`` as it really is."""
        raise NotImplementedError

    def _draw_weight(self) -> float:
        a, b = torch._standard_gamma(torch.full((2,), self.alpha, dtype=torch.float64)).tolist()
        return a / (a + b) if a + b > 0 else 0.5


def _mixed_probs(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Weighted mean of labels; what either does not know (-1) stays unknown."""
    mixed = weight * first + (1 - weight) * second
    return mixed.masked_fill((first < 0) | (second < 0), -1)


@MODELS.register_module()
class MixUp(_Mixing):
    """Blend pairs of images.

    Paper: mixup, https://arxiv.org/abs/1710.09412.

    Args:
        num_classes: number of classes K.
        alpha: of the Beta distribution of the weight.
        prob: how often a batch is mixed.
    """

    def __init__(self, num_classes: int, alpha: float = 0.2, prob: float = 1.0):
        super().__init__(alpha, num_classes, prob)

    def mix(self, first: Tensor, second: Tensor, weight: float) -> tuple[Tensor, float]:
        """Weighted mean."""
        return first * weight + second * (1 - weight), weight


@MODELS.register_module()
class CutMix(_Mixing):
    """Paste a rectangle of another image.

    Paper: CutMix, https://arxiv.org/abs/1905.04899.

    Args:
        num_classes: number of classes K.
        alpha: of the Beta distribution of the area that stays.
        prob: how often a batch is mixed.
    """

    def __init__(self, num_classes: int, alpha: float = 1.0, prob: float = 1.0):
        super().__init__(alpha, num_classes, prob)

    def mix(self, first: Tensor, second: Tensor, weight: float) -> tuple[Tensor, float]:
        """Paste; the weight is corrected for what the borders cut off the rectangle."""
        height, width = first.shape[-2:]
        side = (1 - weight) ** 0.5
        y, x = (torch.rand(2) * torch.tensor([height, width])).int().tolist()
        half_h, half_w = int(height * side) // 2, int(width * side) // 2
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        left, right = max(x - half_w, 0), min(x + half_w, width)
        mixed = first.clone()
        mixed[..., top:bottom, left:right] = second[..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


@MODELS.register_module()
class RandomBatchAugment:
    """Take one of several augmentations for each batch: switches between mixup and cutmix.

    Args:
        augments: the choices.
        probs: how often each one is taken; evenly by default. What they lack to 1 is how often
            the batch stays as it is.
    """

    def __init__(self, augments: Sequence[Callable[..., Any]],
                 probs: Sequence[float] | None = None):
        self.augments = list(augments)
        count = len(self.augments)
        self.probs = [1 / count] * count if probs is None else list(probs)
        if len(self.probs) != count or min(self.probs) < 0 or sum(self.probs) > 1 + 1e-6:
            raise ValueError(f'{count} augments need as many probs, >= 0 and at most 1 together, '
                             f'got {self.probs}')

    def __call__(self, inputs: Tensor,
                 samples: list[DataSample]) -> tuple[Tensor, list[DataSample]]:
        """Draw and apply."""
        drawn = torch.rand(()).item()
        for augment, prob in zip(self.augments, self.probs, strict=True):
            if drawn < prob:
                return augment(inputs, samples)
            drawn -= prob
        return inputs, samples


@MODELS.register_module()
class TokenPreprocessor(nn.Module):
    """Move token sequences to the device, and fill shorter ones up at the right.

    Args:
        pad_token: id to fill up with; nothing looks at it in a causal model.
    """

    device_of: Tensor

    def __init__(self, pad_token: int = 0):
        super().__init__()
        self.pad_token = pad_token
        self.register_buffer('device_of', torch.empty(0), persistent=False)

    def forward(self, batch: Batch, training: bool = False) -> Batch:
        """Prepare a batch.

        Args:
            batch: ``inputs``, a (B, T) tensor or a list of (T,); ``samples``, whose
                ``target_tokens`` are filled up with ignored ones.
            training: without effect.
        """
        device = self.device_of.device
        inputs, samples = batch['inputs'], batch.get('samples')
        if samples is not None:
            samples = [sample.to(device, non_blocking=True) for sample in samples]
        if not isinstance(inputs, Tensor):
            length = max(len(tokens) for tokens in inputs)
            inputs = torch.stack([self._filled(t, length, self.pad_token) for t in inputs])
            for sample in samples or ():
                if sample.target_tokens is not None:
                    sample.target_tokens = self._filled(sample.target_tokens, length, -100)
        return {**batch, 'inputs': inputs.to(device, non_blocking=True), 'samples': samples}

    @staticmethod
    def _filled(tokens: Tensor, length: int, value: int) -> Tensor:
        return functional.pad(tokens, (0, length - len(tokens)), value=value)


def class_probs(sample: DataSample, num_classes: int) -> Tensor:
    """Label of a sample as probabilities, (K,).

    Raises:
        ValueError: if it has none, or one that is not below ``num_classes``.
    """
    if sample.label_probs is not None:
        return sample.label_probs
    if sample.label is None:
        raise ValueError(f'mixing needs a label, {sample} has none')
    if not 0 <= int(sample.label) < num_classes:
        raise ValueError(f'label {int(sample.label)} of {sample.meta.get("img_path", "an item")} '
                         f'is not from 0 to num_classes - 1 = {num_classes - 1}')
    return functional.one_hot(sample.label.long(), num_classes).float()
