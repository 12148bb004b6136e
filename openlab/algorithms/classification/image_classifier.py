"""Image classification: a backbone, optionally a neck, and a head that scores classes.

The network sees an image once and gives a score to each class. Everything that varies is an
argument: which network (backbone), which loss and what the scores mean (head). Truth may be one
class, or probabilities of classes as mixup and cutmix make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class ImageClassifier(Algorithm):
    """Backbone, neck and head in a row.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to maps.
        head: maps to logits; has ``loss`` and ``predict``.
        preprocessor: see ``Algorithm``.
    """

    needs_maps = False
    weights = (
        KeyMap(
            'openmmlab',
            renames=(
                # A head of several layers: the last one gives the scores.
                (r'^head\.layers\.0\.fc\.', 'head.hidden.0.'),
                (r'^head\.layers\.1\.fc\.', 'head.fc.'),
                # Linear probes normalise features in the neck, as retrieval pools them there.
                (r'^neck\.bn\.', 'head.norm.'),
                (r'^image_encoder\.0\.', 'backbone.'),
            ),
            drops=((r'^data_preprocessor\.', 'the config holds mean and deviation'),),
            signature=(r'^(?:backbone|image_encoder\.0)\.',)),
    )

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        *,
        head: nn.Module,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.backbone = backbone
        self.neck = neck
        self.head: Any = head

    def feats(self, inputs: Tensor) -> Sequence[Tensor]:
        """What the head gets of images (B, 3, H, W)."""
        return self._through_neck(self.backbone(inputs))

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W)."""
        return self.outputs_of_maps(self.backbone(inputs), inputs)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> Tensor:
        """Logits (B, K) from what the backbone gave."""
        return self.head(self._through_neck(feats))

    def _through_neck(self, feats: Sequence[Tensor]) -> Sequence[Tensor]:
        return feats if self.neck is None else self.neck(feats)

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """The head's losses."""
        return self.head.loss(outputs, samples)

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """The head's predictions: ``label`` and ``label_probs``."""
        return self.head.predict(outputs, samples)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the backbone wants kept out of weight decay."""
        names: set[str] = getattr(self.backbone, 'no_weight_decay', set)()
        return {f'backbone.{name}' for name in names}
