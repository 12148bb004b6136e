"""How well a language model predicts text."""

from __future__ import annotations

import math
from typing import Any

from openlab.metrics.base import Metric
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample


@METRICS.register_module()
class LanguageModelMetric(Metric):
    """Perplexity of a token, and bits per byte of text.

    Bits per byte do not depend on the tokenizer, so models with different ones can be compared:
    total negative log-likelihood / (ln 2 x bytes).

    ``update`` reads ``extra['nll']`` (nats) and ``extra['num_tokens']`` of the predictions, as
    ``CausalLMHead.predict`` gives them, and ``meta['num_bytes']`` of the truth.
    """

    name = 'text'

    def reset(self) -> None:
        """Forget everything seen."""
        self.nll, self.num_tokens, self.num_bytes = 0.0, 0, 0

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Add up likelihoods, tokens and bytes."""
        for prediction, sample in zip(predictions, samples, strict=True):
            if 'nll' not in prediction.extra:
                raise ValueError(
                    'LanguageModelMetric needs predictions with a likelihood; did the samples '
                    'have target_tokens?'
                )
            self.nll += float(prediction.extra['nll'])
            self.num_tokens += int(prediction.extra['num_tokens'])
            self.num_bytes += int(sample.meta.get('num_bytes', 0))

    def compute(self) -> dict[str, float]:
        """``nll`` per token, ``perplexity``, and ``bits_per_byte`` where bytes are known.

        Raises:
            ValueError: if no token was seen.
        """
        if not self.num_tokens:
            raise ValueError('LanguageModelMetric saw no token; is the validation set empty?')
        mean = self.nll / self.num_tokens
        result = {'nll': mean, 'perplexity': math.exp(min(mean, 700.0))}
        if self.num_bytes:
            result['bits_per_byte'] = self.nll / math.log(2) / self.num_bytes
        return result

    def state(self) -> Any:
        """The three sums."""
        return [self.nll, self.num_tokens, self.num_bytes]

    def merge(self, states: list[Any]) -> None:
        """Add up the sums of all processes."""
        self.nll = sum(s[0] for s in states)
        self.num_tokens = sum(s[1] for s in states)
        self.num_bytes = sum(s[2] for s in states)
