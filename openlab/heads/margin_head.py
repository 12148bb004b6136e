"""Classes as directions on a sphere, each to be hit with a margin: ArcFace and its relatives.

* Deng et al., ArcFace, https://arxiv.org/abs/1801.07698
* Wang et al., CosFace, https://arxiv.org/abs/1801.09414
* Liu et al., SphereFace, https://arxiv.org/abs/1704.08063
* Deng et al., Sub-center ArcFace, ECCV 2020

Idea: logits are cosines of the angle between an image's embedding and the centre of a class,
times a scale. In training the angle to the true class is made to look larger than it is, so that
embeddings of a class move together; in use there is no margin, and embeddings are compared.

What differs: SphereFace here normalises embeddings too, with a fixed scale, and needs no
annealing (its authors' later variant, https://arxiv.org/abs/2109.05565).

B batch · C channels · D embedding · K classes · M centres of a class
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.heads.linear_head import stack_targets
from openlab.layers.pool import GlobalPool
from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class MarginHead(nn.Module):
    """Cosine classifier whose true class is held to cos(multiply * angle + add) - subtract.

    ArcFace: ``add=0.5``. CosFace: ``add=0, subtract=0.35``. SphereFace: ``multiply=4, add=0``.
    All three together: ``multiply=1, add=0.3, subtract=0.2`` (section 3.2 of ArcFace).

    Args:
        num_classes: K.
        in_channels: channels of the last map; by default what feeds the head.
        embed_dim: D, by a linear layer and batch norm after pooling; ``None`` compares the pooled
            features themselves.
        pool: how a map becomes a vector; by default its mean.
        dropout: probability to drop a pooled feature in training.
        multiply: factor of the angle to the true class (m1).
        add: radians added to it (m2).
        subtract: taken from its cosine (m3).
        scale: factor of all cosines (s).
        num_centers: M; an image belongs to the nearest centre of its class, which lets the
            others gather noise.
        loss: compares logits with class indices; by default cross entropy.
    """

    weights = (
        KeyMap('openmmlab', ((r'^norm_product\.weight$', 'centers'),),
               signature=(r'^norm_product\.weight$',)),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        embed_dim: int | None = None,
        pool: nn.Module | None = None,
        dropout: float = 0.0,
        multiply: float = 1.0,
        add: float = 0.5,
        subtract: float = 0.0,
        scale: float = 64.0,
        num_centers: int = 1,
        loss: ClassificationLoss | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('MarginHead needs in_channels: nothing feeds it that has out_channels')
        if multiply < 1 or not 0 <= add < math.pi or subtract < 0 or scale <= 0:
            raise ValueError(
                'margins need multiply >= 1, add in [0, pi) radians, subtract >= 0 and scale > 0, '
                f'got {multiply}, {add}, {subtract} and {scale}')
        if num_centers < 1:
            raise ValueError(f'num_centers must be at least 1, got {num_centers}')
        self.num_classes = num_classes
        self.embed_dim = embed_dim or in_channels
        self.pool = pool or GlobalPool()
        self.dropout = nn.Dropout(dropout)
        self.projection: nn.Module = nn.Identity() if embed_dim is None else nn.Sequential(
            nn.Linear(in_channels, embed_dim, bias=False), nn.BatchNorm1d(embed_dim))
        self.multiply, self.add, self.subtract = multiply, add, subtract
        self.scale = scale
        self.num_centers = num_centers
        self.centers = nn.Parameter(torch.empty(num_classes * num_centers, self.embed_dim))
        nn.init.xavier_uniform_(self.centers)
        self.loss_function: ClassificationLoss = loss or CrossEntropyLoss()

    def embed(self, feats: Sequence[Tensor]) -> Tensor:
        """Embeddings of length 1, (B, D), from the last of ``feats``."""
        x = self.projection(self.dropout(self.pool(feats[-1])))
        return F.normalize(x.float(), dim=1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Scaled cosines to the classes, without margin, (B, K)."""
        return self.classify(self.embed(feats))

    def classify(self, embedding: Tensor) -> Tensor:
        """Scaled cosines to the classes, (B, K), of embeddings (B, D)."""
        with _in_full_precision(embedding.device.type):
            cosines = embedding.float() @ F.normalize(self.centers.float(), dim=1).T
        if self.num_centers > 1:
            cosines = cosines.unflatten(1, (self.num_classes, self.num_centers)).amax(2)
        return self.scale * cosines

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_cls`` with the margin at the true class.

        Raises:
            ValueError: if labels are soft: a margin needs one true class.
        """
        labels = stack_targets(samples, self.num_classes)
        if labels.ndim != 1:
            raise ValueError('MarginHead needs one class index for each item, not label_probs; '
                             'remove mixup, cutmix and multi_label')
        logits = self.with_margin(outputs, labels)
        return {
            'loss_cls': self.loss_function(logits, labels),
            'num_items': self.loss_function.num_items(logits, labels),
        }

    def with_margin(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Logits of training, (B, K): ``outputs`` with those of the true class (B,) lowered."""
        place = labels[:, None]
        cosine = outputs.float().gather(1, place) / self.scale
        lowered = lower_cosine(cosine, self.multiply, self.add, self.subtract)
        return outputs.float().scatter(1, place, self.scale * lowered)

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """``label`` (the nearest class) and ``label_probs`` (K,) of each item."""
        probs = self.loss_function.probs(outputs)
        return [
            DataSample(meta=dict(sample.meta), label=label, label_probs=p)
            for sample, label, p in zip(samples, probs.argmax(1), probs)
        ]


def _in_full_precision(device: str) -> AbstractContextManager[Any]:
    """Close to 1, half precision tells angles of 3 degrees and of 0 apart no more."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def lower_cosine(cosine: Tensor, multiply: float, add: float, subtract: float) -> Tensor:
    """cos(multiply * angle + add) - subtract, carried on so that it falls with the angle.

    Beyond half a turn the cosine would rise again. There ArcFace's code goes on with
    ``cosine - add * sin(add)``; SphereFace with (-1)^k cos(.) - 2k, where k counts half turns.

    Args:
        cosine: cosines of angles, any shape.
        multiply: see ``MarginHead``.
        add: see ``MarginHead``.
        subtract: see ``MarginHead``.
    """
    if multiply == 1 and add == 0:
        return cosine - subtract
    # The derivative of the arc cosine is infinite at its ends.
    angle = cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    turned = multiply * angle + add
    if multiply == 1:
        lowered = torch.where(turned <= math.pi, turned.cos(), cosine - add * math.sin(add))
    else:
        half_turns = (turned / math.pi).floor().detach()
        lowered = (1 - 2 * (half_turns % 2)) * turned.cos() - 2 * half_turns
    return lowered - subtract
