"""Two linear classifiers, one of which learns from a teacher, and the mean of both.

Touvron et al., DeiT, https://arxiv.org/abs/2012.12877, section 4

B batch · C channels · K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlab.heads.linear_head import LinearHead
from openlab.layers.norm import make_norm
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class DistilledHead(LinearHead):
    """Classify the features of the class token and those of the distillation token.

    Without a teacher both classifiers are trained as one: by the mean of their logits.

    Args:
        num_classes: number of classes.
        in_channels: channels of the features; by default what feeds the head.
        dropout: probability to drop a feature in training.
        loss: compares logits with targets; by default cross entropy.
        init_std: deviation of the first weights.
        norm: normalises the features before each classifier, see ``make_norm``; ``None`` does
            without. LeViT has ``nn.BatchNorm1d`` there.
    """

    weights = (
        KeyMap('openmmlab',
               ((r'^layers\.head\.', 'fc.'), (r'^layers\.head_dist\.', 'fc_distill.')),
               signature=(r'^layers\.head_dist\.',)),
        KeyMap('openmmlab',
               ((r'^head\.bn\.', 'norm.'), (r'^head\.linear\.', 'fc.'),
                (r'^head_dist\.bn\.', 'norm_distill.'),
                (r'^head_dist\.linear\.', 'fc_distill.')),
               signature=(r'^head_dist\.bn\.',)),
        KeyMap('openmmlab',
               ((r'^head\.', 'fc.'), (r'^(?:dist_head|head_dist)\.', 'fc_distill.')),
               signature=(r'^(?:dist_head|head_dist)\.',)),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        dropout: float = 0.0,
        loss: ClassificationLoss | None = None,
        init_std: float = 0.01,
        norm: dict[str, Any] | None = None,
    ):
        super().__init__(num_classes, in_channels, None, dropout, loss, init_std)
        channels = self.fc.in_features
        self.norm, self.norm_distill = (
            make_norm(channels, norm) if norm else nn.Identity() for _ in range(2))
        self.fc_distill = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc_distill.weight, std=init_std)
        nn.init.zeros_(self.fc_distill.bias)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Mean of both classifiers' logits, (B, K)."""
        return self.branches(feats).mean(0)

    def branches(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits of the class token and of the distillation token, (2, B, K).

        Args:
            feats: the last two, if they are alike, are the features of class and distillation
                token; of a backbone without such tokens the last serves both.
        """
        has_pair = len(feats) > 1 and feats[-2].shape == feats[-1].shape
        class_feats, distill_feats = self.pool(feats[-2 if has_pair else -1]), self.pool(feats[-1])
        return torch.stack([
            self.fc(self.dropout(self.norm(class_feats))),
            self.fc_distill(self.dropout(self.norm_distill(distill_feats)))])
