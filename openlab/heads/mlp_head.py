"""Hidden layers between features and classes.

B batch · C channels · K classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from openlab.heads.linear_head import LinearHead
from openlab.layers.act import make_act
from openlab.layers.norm import make_norm
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS


@MODELS.register_module()
class MLPHead(LinearHead):
    """Pool the last feature map, if it is one, pass hidden layers, classify.

    Args:
        num_classes: number of classes.
        hidden_channels: outputs of each hidden layer.
        in_channels: channels of the last map; by default what feeds the head.
        grid: side of the grid that the map is averaged to; every cell has weights of its own in
            the first layer (VGG: 7).
        act: activation after hidden layers, see ``make_act``.
        dropout: probability to drop an output of a hidden layer in training.
        loss: compares logits with targets; by default cross entropy.
        init_std: deviation of the first weights.
        norm: normalise what a hidden layer gives, before its activation, see ``make_norm``
            (MobileNetV4: ``torch.nn.BatchNorm1d``); hidden layers then have no bias.
    """

    def __init__(
        self,
        num_classes: int,
        hidden_channels: Sequence[int],
        in_channels: int | None = None,
        grid: int = 1,
        act: dict[str, Any] | None = None,
        dropout: float = 0.0,
        loss: ClassificationLoss | None = None,
        init_std: float = 0.01,
        norm: dict[str, Any] | None = None,
    ):
        if in_channels is None:
            raise ValueError('MLPHead needs in_channels: nothing feeds it that has out_channels')
        if not hidden_channels:
            raise ValueError('MLPHead needs hidden_channels; without hidden layers it is a '
                             'LinearHead')
        super().__init__(num_classes, hidden_channels[-1], None, dropout, loss, init_std)
        self.grid = grid
        inputs = [in_channels * grid**2, *hidden_channels[:-1]]
        self.hidden = nn.ModuleList(
            nn.Linear(i, o, bias=norm is None) for i, o in zip(inputs, hidden_channels))
        self.norms = nn.ModuleList(
            nn.Identity() if norm is None else make_norm(o, norm) for o in hidden_channels)
        self.act = make_act(act)

    @staticmethod
    def reads_maps(cfg: Mapping[str, Any]) -> bool:
        """Whether a head of this config needs maps: with a grid it looks at their cells."""
        return cfg.get('grid', 1) > 1

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K) from the last of ``feats``, (B, C, H, W) or, without a grid, (B, C).

        Raises:
            ValueError: if features are vectors, which have no grid of cells.
        """
        x = feats[-1]
        if x.ndim == 4:
            x = F.adaptive_avg_pool2d(x, self.grid).flatten(1)
        elif self.grid != 1:
            raise ValueError(f'MLPHead has grid={self.grid} but is fed vectors of shape '
                             f'{tuple(x.shape)}, which have no cells; set grid=1')
        for layer, norm in zip(self.hidden, self.norms):
            x = self.dropout(self.act(norm(layer(x))))
        return self.fc(x)
