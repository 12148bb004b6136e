"""From collated batches to what a network takes: on its device, normalised, padded, mixed.

B batch · H, W image height and width · K classes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = (0.0, 0.0, 0.0),
                 std: Sequence[float] = (1.0, 1.0, 1.0), pad_divisor: int = 1,
                 pad_value: float | Sequence[float] | None = None,
                 batch_augments: Sequence[Callable[..., Any]] = (), to_float: bool = True):
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

    def forward(self, batch: Batch, training: bool = False) -> Batch:
        """Prepare a batch.

        Args:
            batch: ``inputs``, a (B, C, H, W) tensor or a list of (C, H, W); ``samples``, which
                may be left out. Other keys pass through.
            training: whether to augment.

        Returns:
            The batch with ``inputs`` (B, C, H', W') and moved ``samples``; where images were
            padded, their ``meta`` says the new size as ``pad_shape``.
        """
        device = self.mean.device
        inputs = self._normalised(batch['inputs'])
        samples = batch.get('samples')
        if samples is not None:
            samples = [s.to(device, non_blocking=True) for s in samples]
            self._record_padding(batch['inputs'], inputs, samples)
        if training:
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        return {**batch, 'inputs': inputs, 'samples': samples}

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
        return images.float().sub_(self.mean).div_(self.std) if images.dtype == torch.uint8 \
            else (images.float() - self.mean) / self.std

    def _padded(self, length: int) -> int:
        return -(-length // self.pad_divisor) * self.pad_divisor

    def _record_padding(self, before: Tensor | list[Tensor], after: Tensor,
                        samples: list[DataSample]) -> None:
        shape = tuple(after.shape[-2:])
        for image, sample in zip(before, samples, strict=True):
            if tuple(image.shape[-2:]) != shape:
                sample.meta = {**sample.meta, 'pad_shape': shape}
