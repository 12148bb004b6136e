"""One linear layer from features to classes.

B batch · C channels · K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.norm import make_norm
from openlab.layers.pool import GlobalPool
from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class LinearHead(nn.Module):
    """Pool the last feature map, drop out, classify.

    Args:
        num_classes: number of classes.
        in_channels: channels of the last map; by default what feeds the head.
        pool: how a map becomes a vector; by default its mean.
        dropout: probability to drop a feature in training.
        loss: compares logits with targets; by default cross entropy.
        init_std: deviation of the first weights.
        norm: normalises what comes out of the pool, see ``make_norm``; probes of frozen features
            take ``dict(type='BatchNorm1d', affine=False)``. ``None`` does without.
    """

    weights: tuple[KeyMap, ...] = (
        # Heads of OpenMMLab's vision transformers keep their layers in a list.
        KeyMap('openmmlab', ((r'^layers\.head\.', 'fc.'),), signature=(r'^layers\.head\.',)),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        pool: nn.Module | None = None,
        dropout: float = 0.0,
        loss: ClassificationLoss | None = None,
        init_std: float = 0.01,
        norm: dict[str, Any] | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('LinearHead needs in_channels: nothing feeds it that has out_channels')
        self.num_classes = num_classes
        self.pool = pool or GlobalPool()
        self.norm = make_norm(in_channels, norm) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        self.loss_function: ClassificationLoss = loss or CrossEntropyLoss()
        nn.init.normal_(self.fc.weight, std=init_std)
        nn.init.zeros_(self.fc.bias)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K) from the last of ``feats``, (B, C, H, W) or (B, C)."""
        return self.fc(self.dropout(self.norm(self.pool(feats[-1]))))

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_cls`` and the number of items it is a mean over."""
        target = stack_targets(samples, self.num_classes)
        return {
            'loss_cls': self.loss_function(outputs, target),
            'num_items': self.loss_function.num_items(outputs, target),
        }

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """``label`` (the likeliest class) and ``label_probs`` (K,) of each item."""
        probs = self.loss_function.probs(outputs)
        return [
            DataSample(meta=dict(sample.meta), label=label, label_probs=p)
            for sample, label, p in zip(samples, probs.argmax(1), probs)
        ]


def stack_targets(samples: list[DataSample], num_classes: int) -> Tensor:
    """Class indices (B,), or probabilities (B, K) as soon as one sample has ``label_probs``.

    Raises:
        ValueError: if a sample has neither, or has the wrong number of classes.
    """
    soft = any(s.label_probs is not None for s in samples)
    targets = [_target(s, num_classes, soft) for s in samples]
    return torch.stack(targets)


def _target(sample: DataSample, num_classes: int, soft: bool) -> Tensor:
    if sample.label_probs is not None:
        if len(sample.label_probs) != num_classes:
            raise ValueError(f'{_name(sample)} has {len(sample.label_probs)} class probabilities '
                             f'but the head has num_classes={num_classes}')
        return sample.label_probs.float()
    if sample.label is None:
        raise ValueError(f'{_name(sample)} has no label; the dataset must set one to train on it')
    label = torch.as_tensor(sample.label).reshape(()).long()
    return F.one_hot(label, num_classes).float() if soft else label


def _name(sample: DataSample) -> str:
    return f'sample {sample.meta.get("img_path") or sample.meta.get("img_id", "without a name")!r}'
