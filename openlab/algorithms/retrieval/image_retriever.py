"""Image retrieval: images as directions, and the gallery's nearest ones as the answer.

Idea: a network puts images of the same thing close together. It is trained like a classifier of
the training set's things, best with a margin (``MarginHead``); in use the classes are forgotten
and a query is compared with a gallery, whose things need not have been seen before.

B batch · C channels · D embedding · G images of the gallery
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.layers.pool import GlobalPool
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


@MODELS.register_module()
class ImageRetriever(Algorithm):
    """Backbone, neck and a head that embeds.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to maps.
        head: has ``embed`` (maps to embeddings), ``classify`` (embeddings to logits) and
            ``loss``, as ``MarginHead``. Without one the mean of the last map is the embedding,
            and nothing can be trained.
        topk: how many images of the gallery answer a query.
        preprocessor: see ``Algorithm``.
    """

    gives_features = True

    gallery: Tensor | None
    gallery_labels: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        head: nn.Module | None = None,
        topk: int = 10,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        for name in ('embed', 'classify', 'loss'):
            if head is not None and not hasattr(head, name):
                raise ValueError(f'ImageRetriever needs a head with {name}(), such as MarginHead; '
                                 f'{type(head).__name__} has none')
        if topk < 1:
            raise ValueError(f'topk must be at least 1, got {topk}')
        self.backbone = backbone
        self.neck = neck
        self.head: Any = head
        self.pool = GlobalPool()
        self.topk = topk
        self.register_buffer('gallery', None, persistent=False)
        self.register_buffer('gallery_labels', None, persistent=False)

    def embed(self, inputs: Tensor) -> Tensor:
        """Embeddings of length 1, (B, D), of images (B, 3, H, W)."""
        feats = self.backbone(inputs)
        if self.neck is not None:
            feats = self.neck(feats)
        if self.head is not None:
            return self.head.embed(feats)
        return F.normalize(self.pool(feats[-1]).float(), dim=1)

    def set_gallery(self, embeddings: Tensor, labels: Tensor | None = None) -> None:
        """Choose the images to find.

        ``openlab.apis.probe.extract_features(model, loader)`` gives both arguments.

        Args:
            embeddings: (G, D).
            labels: class index of each, (G,); may be left out.
        """
        if embeddings.ndim != 2 or (labels is not None and len(labels) != len(embeddings)):
            raise ValueError(f'a gallery needs embeddings (G, D) and as many labels, got '
                             f'{tuple(embeddings.shape)} and '
                             f'{None if labels is None else tuple(labels.shape)}')
        device = next(self.parameters()).device
        self.gallery = F.normalize(embeddings.to(device).float(), dim=1)
        self.gallery_labels = None if labels is None else labels.to(device)

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        """Embeddings (B, D) of images (B, 3, H, W)."""
        return self.embed(inputs)

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """The head's losses: training images are classified."""
        if self.head is None:
            raise ValueError('ImageRetriever without a head cannot be trained; give it a '
                             'MarginHead')
        return self.head.loss(self.head.classify(outputs), samples)

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """``extra['embedding']`` (D,) of each image, and what of the gallery is nearest.

        Where there is a gallery: ``extra['matches']`` holds indices of its images, the nearest
        first, ``extra['match_scores']`` their cosines, and ``label`` the class of the first.
        """
        predictions = [DataSample(meta=dict(sample.meta), extra={'embedding': embedding})
                       for sample, embedding in zip(samples, outputs)]
        if self.gallery is None:
            return predictions
        scores, matches = (outputs @ self.gallery.T).topk(min(self.topk, len(self.gallery)), dim=1)
        for prediction, score, match in zip(predictions, scores, matches):
            prediction.extra |= {'matches': match, 'match_scores': score}
            if self.gallery_labels is not None:
                prediction.label = self.gallery_labels[match[0]]
        return predictions

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the backbone wants kept out of weight decay."""
        names: set[str] = getattr(self.backbone, 'no_weight_decay', set)()
        return {f'backbone.{name}' for name in names}
