"""Text classification: the decoder of a language model under a classification head.

Paper: Improving Language Understanding by Generative Pre-Training, section 3.2: the feature of
a sequence's last token, which alone has seen all others, is classified linearly.

B batch · T tokens · D embedding · K classes
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.algorithms.llm.causal_lm import stack_field
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


@MODELS.register_module()
class SequenceClassifier(Algorithm):
    """Classify whole token sequences.

    Args:
        backbone: decoder; gives (B, T, D).
        num_classes: K.
        in_channels: D; taken from the decoder where left out.
        pad_token: id that fills sequences up at the right; the last other token is classified.
            ``None`` classifies the last position.
        preprocessor: see ``Algorithm``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        in_channels: int | None = None,
        pad_token: int | None = None,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.backbone: Any = backbone
        self.pad_token = pad_token
        channels: Any = in_channels or backbone.out_channels[-1]  # type: ignore[index]
        self.classifier = nn.Linear(channels, num_classes)

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        """Tokens, (B, T), to logits, (B, K)."""
        features = self.backbone(inputs)[-1]
        if self.pad_token is None:
            return self.classifier(features[:, -1])
        position = torch.arange(inputs.shape[1], device=inputs.device)
        last = torch.where(inputs != self.pad_token, position, 0).amax(dim=1)
        return self.classifier(features[torch.arange(len(inputs), device=inputs.device), last])

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """Mean cross-entropy over the sequences."""
        labels = stack_field(samples, 'label')
        return {'loss': F.cross_entropy(outputs, labels)}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """Most likely class of each sequence, with all probabilities."""
        probs = outputs.softmax(dim=-1)
        return [
            DataSample(meta=sample.meta, label=p.argmax(), label_probs=p)
            for p, sample in zip(probs, samples, strict=True)
        ]
