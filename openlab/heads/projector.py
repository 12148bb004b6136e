"""Hidden layers from features to the space in which self-supervised learning compares them.

B batch · C channels · D embedding
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from openlab.layers.norm import make_norm
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class Projector(nn.Module):
    """Linear layers without bias, each but the last with a norm and ReLU behind it.

    Args:
        hidden_channels: outputs of each hidden layer.
        out_channels: size of the embedding (D).
        num_layers: linear layers in all.
        in_channels: channels of the features; by default what feeds it.
        norm: see ``make_norm``; by default batch norm.
        last_norm: what stands behind the last layer: ``'affine'``, the same norm; ``'plain'``,
            batch norm without scale and shift; ``None``, nothing.
    """

    weights = (
        KeyMap(
            'openmmlab',
            # Linear layers and norms are counted apart there; every third of ours is a ReLU.
            tuple((rf'^{name}{i}\.', f'layers.{3 * i + after}.')
                  for i in range(8) for name, after in (('fc', 0), ('bn', 1))),
            signature=(r'^fc0\.weight$',)),
    )

    def __init__(
        self,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        in_channels: int | Sequence[int] | None = None,
        norm: dict[str, Any] | None = None,
        last_norm: str | None = 'affine',
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('Projector needs in_channels: nothing feeds it that has out_channels')
        if num_layers < 1:
            raise ValueError(f'num_layers must be at least 1, got {num_layers}')
        if last_norm not in ('affine', 'plain', None):
            raise ValueError(f"last_norm is 'affine', 'plain' or None, not {last_norm!r}")
        first = in_channels if isinstance(in_channels, int) else in_channels[-1]
        widths = [first, *[hidden_channels] * (num_layers - 1), out_channels]
        self.layers = nn.Sequential()
        for i in range(num_layers):
            self.layers.append(nn.Linear(widths[i], widths[i + 1], bias=False))
            if i < num_layers - 1:
                self.layers += nn.Sequential(_norm(widths[i + 1], norm), nn.ReLU(inplace=True))
        if last_norm == 'affine':
            self.layers.append(_norm(out_channels, norm))
        elif last_norm == 'plain':
            self.layers.append(nn.BatchNorm1d(out_channels, affine=False))
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C) to embeddings (B, D)."""
        return self.layers(x)


def _norm(channels: int, norm: Mapping[str, Any] | None) -> nn.Module:
    return make_norm(channels, norm or {'type': nn.BatchNorm1d})
