"""For small sets whose images all fit in memory: one shared array."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openlab.data.datasets.base import BaseDataset
from openlab.data.transforms.base import Results


class InMemoryImages(BaseDataset):
    """Puts the image itself into the results, so that pipelines need no ``LoadImage``.

    A pipeline that has ``LoadImage`` all the same works as well: it takes the array.
    """

    _images: Tensor | None = None

    def hold(self, images: np.ndarray) -> None:
        """Keep all images, (N, H, W) gray or (N, H, W, 3) RGB, uint8."""
        self._images = torch.from_numpy(np.array(images, order='C'))

    def image(self, index: int) -> np.ndarray:
        """One image, (H, W, 3) RGB, a copy."""
        _ = self.annotations  # reads the files on first use, which fills _images
        assert self._images is not None
        image = self._images[index].numpy()
        return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image.copy()

    def prepare(self, index: int) -> Results:
        """Record and image."""
        results = super().prepare(index)
        image = self.image(index)
        results['img'] = image
        results['ori_shape'] = results['img_shape'] = image.shape[:2]
        return results
