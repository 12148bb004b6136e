"""What all self-supervised algorithms are: views in training, features of images afterwards.

The network that is worth keeping is ``backbone``, under the same names as in classifiers and
detectors, so that these take it from a checkpoint of the pre-training as it is.

B batch · V views · C channels · H, W image height and width
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.layers.pool import GlobalPool
from openlab.structures.data_sample import DataSample


class SelfSupervised(Algorithm):
    """Base of the algorithms that learn a backbone from images without labels.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps or vectors.
        preprocessor: see ``Algorithm``.
    """

    gives_features = True

    def __init__(self, backbone: nn.Module, preprocessor: nn.Module | None = None):
        super().__init__(preprocessor)
        self.backbone: Any = backbone
        self.pool = GlobalPool()

    @abstractmethod
    def train_outputs(self, inputs: Any) -> Any:
        """What ``loss`` compares, of views (a list of V times (B, 3, H, W)) or images."""

    def outputs(self, inputs: Tensor | list[Tensor],
                samples: list[DataSample] | None = None) -> Any:
        """In training what ``loss`` compares; in evaluation features (B, C).

        Args:
            inputs: views in training; images (B, 3, H, W) in evaluation, where of several views
                the first one counts.
            samples: not looked at.
        """
        if self.training:
            return self.train_outputs(inputs)
        return self.features(inputs if isinstance(inputs, Tensor) else inputs[0])

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C) of images (B, 3, H, W): the backbone's last map, pooled."""
        return self.pool(self.backbone(images)[-1])

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """Samples with the features of each image, (C,), as ``extra['feats']``."""
        return [DataSample(meta=dict(s.meta), extra={'feats': f.float()})
                for s, f in zip(samples, outputs, strict=True)]


def check_views(algorithm: nn.Module, inputs: Any, num_views: int | None = None) -> list[Tensor]:
    """Views as they should come in training.

    Raises:
        ValueError: if these are plain images, or of another number.
    """
    name = type(algorithm).__name__
    if isinstance(inputs, Tensor) or not isinstance(inputs, Sequence):
        raise ValueError(f'{name} learns from several views of each image, but got one batch of '
                         'them; put a MultiView before PackInputs in the pipeline of '
                         'train_dataloader.dataset')
    if num_views is not None and len(inputs) != num_views:
        raise ValueError(f'{name} compares {num_views} views of each image, got {len(inputs)}; '
                         'counts of MultiView must sum to that')
    return list(inputs)


def check_training(algorithm: nn.Module, outputs: Any) -> None:
    """Refuse to compute a loss of features.

    Raises:
        ValueError: if the outputs are those of evaluation.
    """
    if isinstance(outputs, Tensor):
        raise ValueError(f'{type(algorithm).__name__} has no loss in evaluation mode, where its '
                         'outputs are features; call train() first')
