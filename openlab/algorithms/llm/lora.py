"""LoRA: fine-tune a large network by small matrices beside its frozen ones.

Paper: LoRA: Low-Rank Adaptation of Large Language Models, https://arxiv.org/abs/2106.09685.

Idea: the change that fine-tuning makes to a weight matrix has low rank, so only two thin factors
of it are learned. The network itself stays as it is; afterwards the product is added to it and
nothing remains to be computed.

It works on any algorithm: linear layers are chosen by name.

R rank · I, O inputs and outputs of a layer
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm, Mode
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


class LoRALinear(nn.Linear):
    """A linear layer whose weight is frozen, plus a learned product of two thin matrices.

    ``weight`` keeps its name, so weights of the plain network load without renaming.

    Args:
        layer: the layer to take the place of; its parameters are used, not copied.
        rank: R.
        alpha: the product is scaled by ``alpha / rank`` (section 4.1).
        dropout: probability to drop an input of the added path.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        options: dict[str, Any] = {'device': layer.weight.device, 'dtype': layer.weight.dtype}
        self.lora_down = nn.Parameter(torch.empty(rank, self.in_features, **options))
        # Zero, so that training begins at the network as it was.
        self.lora_up = nn.Parameter(torch.zeros(self.out_features, rank, **options))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        added = F.linear(F.linear(self.dropout(input), self.lora_down), self.lora_up)
        return F.linear(input, self.weight, self.bias) + self.scale * added

    def merged(self) -> nn.Linear:
        """The plain layer that computes the same (without dropout)."""
        with_bias = self.bias is not None
        layer = nn.Linear(self.in_features, self.out_features, with_bias, device='meta')
        weight = self.weight + self.scale * self.lora_up @ self.lora_down
        layer.weight = nn.Parameter(weight.detach())
        if with_bias:
            layer.bias = self.bias
        return layer


@MODELS.register_module()
class LoRA(Algorithm):
    """An algorithm of which only low-rank additions are trained.

    Args:
        base: the algorithm; ``load_from`` gives it its weights.
        rank: R.
        alpha: see ``LoRALinear``.
        dropout: see ``LoRALinear``.
        targets: ends of the names of the linear layers that get an addition.
        trainable: parts of names of further parameters to train as usual, such as a new head.

    Raises:
        ValueError: if a target fits no linear layer.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: Sequence[str] = ('attention.qkv', 'attention.out', 'mlp.gate_up', 'mlp.down'),
        trainable: Sequence[str] = (),
    ):
        super().__init__(getattr(base, 'preprocessor', None))
        if rank < 1:
            raise ValueError(f'rank must be at least 1, not {rank}')
        self.base: Any = base
        # Ours now: one module must not be saved under two names.
        self.base.preprocessor = None  # type: ignore[assignment]
        for name, parameter in base.named_parameters():
            parameter.requires_grad = any(part in name for part in trainable)
        for target in targets:
            self._add_to(target, rank, alpha, dropout)

    def _add_to(self, target: str, rank: int, alpha: float, dropout: float) -> None:
        layers = {n: m for n, m in self.base.named_modules() if isinstance(m, nn.Linear)}
        chosen = [name for name in layers if name == target or name.endswith(f'.{target}')]
        if not chosen:
            endings = sorted({'.'.join(name.split('.')[-2:]) for name in layers})
            raise ValueError(
                f'model.targets: no linear layer is named {target!r}; there are {endings}')
        for name in chosen:
            parent, _, child = name.rpartition('.')
            layer = LoRALinear(layers[name], rank, alpha, dropout)
            setattr(self.base.get_submodule(parent), child, layer)

    def forward(
        self, inputs: Any, samples: list[DataSample] | None = None, mode: Mode = 'tensor'
    ) -> Any:
        """That of the base algorithm."""
        return self.base(inputs, samples, mode)

    def outputs(self, inputs: Any, samples: list[DataSample] | None = None) -> Any:
        """Those of the base algorithm."""
        return self.base.outputs(inputs, samples)

    def loss(self, outputs: Any, samples: list[DataSample]) -> dict[str, Tensor]:
        """Those of the base algorithm."""
        return self.base.loss(outputs, samples)

    def predict(self, outputs: Any, samples: list[DataSample]) -> list[DataSample]:
        """Those of the base algorithm."""
        return self.base.predict(outputs, samples)

    def merge(self) -> Any:
        """Add the products to the weights and return the base algorithm, plain again."""
        for name, module in list(self.base.named_modules()):
            if isinstance(module, LoRALinear):
                parent, _, child = name.rpartition('.')
                setattr(self.base.get_submodule(parent), child, module.merged())
        self.base.preprocessor = self.preprocessor
        return self.base
