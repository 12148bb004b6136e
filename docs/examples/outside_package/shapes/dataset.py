"""A dataset and a transform of one's own: discs and squares, drawn on the fly, and noise."""

from collections.abc import Sequence

import numpy as np

from openlab.data.datasets.base import Annotations
from openlab.data.datasets.in_memory import InMemoryImages
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Results, Transform
from openlab.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class Shapes(InMemoryImages):
    """Bright discs (class 0) and squares (class 1) on a dark ground.

    Args:
        num_items: how many images.
        size: side of an image in pixels.
        seed: of the places and sizes; another seed gives another set.
        pipeline: transforms, applied in order to each item.
    """

    def __init__(self, num_items: int = 128, size: int = 16, seed: int = 0,
                 pipeline: Sequence[Transform] = ()):
        super().__init__('', pipeline)
        self.num_items, self.size, self.seed = num_items, size, seed

    def load(self) -> Annotations:
        """Draw all images."""
        rng = np.random.default_rng(self.seed)
        rows, columns = np.mgrid[: self.size, : self.size]
        labels = np.arange(self.num_items) % 2
        images = np.full((self.num_items, self.size, self.size), 40, np.uint8)
        for image, label in zip(images, labels):
            y, x = rng.uniform(0.35, 0.65, 2) * self.size
            radius = rng.uniform(0.2, 0.3) * self.size
            offsets = np.abs(rows - y), np.abs(columns - x)
            distance = np.hypot(*offsets) if label == 0 else np.maximum(*offsets)
            image[distance <= radius] = 220
        self.hold(images)
        return Annotations(RecordTable({'label': labels.astype(np.int64)}), ('disc', 'square'))


@TRANSFORMS.register_module()
class AddNoise(Transform):
    """Add Gaussian noise to the image.

    Args:
        std: deviation, in grey levels.
    """

    def __init__(self, std: float = 10.0):
        self.std = std

    def __call__(self, results: Results) -> Results:
        """Change ``img``; draws from numpy's global generator, which is seeded for each item."""
        image = results['img']
        noisy = image + np.random.normal(0, self.std, image.shape)
        results['img'] = noisy.clip(0, 255).astype(np.uint8)
        return results
