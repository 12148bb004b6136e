"""Class-specific residual attention: each class looks where it is to be seen.

Zhu and Wu, Residual Attention: A Simple but Effective Method for Multi-Label Recognition,
https://arxiv.org/abs/2108.02456

Idea: a linear classifier scores every place of the map. The score of a class is the mean over
places, plus a part of the mean weighted by a softmax over places, sharpened by a temperature.
Several heads differ in temperature alone; their logits are added.

B batch · C channels · K classes · P places of the map
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.heads.multi_label_head import MultiLabelHead
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

# Section 3.3; 99 stands for infinity, the maximum over places.
_TEMPERATURES = {1: (1.0,), 2: (1.0, 99.0), 4: (1.0, 2.0, 4.0, 99.0),
                 6: (1.0, 2.0, 3.0, 4.0, 5.0, 99.0),
                 8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 99.0)}
_INFINITY = 99.0


@MODELS.register_module()
class CSRAHead(MultiLabelHead):
    """Sum of attention heads over the last map.

    Each head has a classifier of its own, whose rows have length 1 and no bias.

    Args:
        num_classes: number of classes.
        in_channels: channels of the last map; by default what feeds the head.
        num_heads: 1, 2, 4, 6 or 8; it sets the temperatures as the paper does.
        residual: weight of the attended score beside the mean (lambda of eq. 7).
        dropout: probability to drop a feature in training.
        loss: compares logits with targets; by default binary cross entropy, summed over classes.
        threshold: predicted labels are the classes that are at least this probable.
    """

    weights = (
        # Its classifiers are 1x1 convolutions there.
        KeyMap('openmmlab', ((r'^csra_heads\.(\d+)\.head\.', r'classifiers.\1.'),),
               transforms=((r'^classifiers\.\d+\.weight$', lambda weight: weight.flatten(1)),),
               signature=(r'^csra_heads\.0\.head\.',)),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        num_heads: int = 1,
        residual: float = 0.1,
        dropout: float = 0.0,
        loss: ClassificationLoss | None = None,
        threshold: float = 0.5,
    ):
        if num_heads not in _TEMPERATURES:
            raise ValueError(f'CSRAHead knows num_heads {list(_TEMPERATURES)}, not {num_heads}')
        super().__init__(num_classes, in_channels, None, dropout, loss, threshold=threshold)
        channels = self.fc.in_features
        del self.fc
        self.residual = residual
        self.temperatures = _TEMPERATURES[num_heads]
        self.classifiers = nn.ModuleList(
            nn.Linear(channels, num_classes, bias=False) for _ in self.temperatures)

    @staticmethod
    def reads_maps(cfg: Mapping[str, Any]) -> bool:
        """Whether a head of this config needs maps: always."""
        return True

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K) from the last of ``feats``, (B, C, H, W).

        Raises:
            ValueError: if features are vectors, which have no places to attend to.
        """
        if feats[-1].ndim != 4:
            raise ValueError(
                f'CSRAHead attends to the places of a feature map but is fed vectors of shape '
                f"{tuple(feats[-1].shape)}; set model.backbone.output='maps'")
        places = self.dropout(feats[-1].flatten(2).transpose(1, 2))
        logits = []
        for classifier, temperature in zip(self.classifiers, self.temperatures):
            scores_BPK = F.linear(places, F.normalize(classifier.weight, dim=1))  # type: ignore[arg-type]
            if temperature == _INFINITY:
                attended = scores_BPK.amax(1)
            else:
                attended = ((scores_BPK * temperature).softmax(1) * scores_BPK).sum(1)
            logits.append(scores_BPK.mean(1) + self.residual * attended)
        return torch.stack(logits).sum(0)
