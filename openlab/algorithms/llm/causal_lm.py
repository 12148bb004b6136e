"""Causal language modelling: predict each token from those before it.

Paper: Improving Language Understanding by Generative Pre-Training (eq. 1), with the decoder of
LLaMA, https://arxiv.org/abs/2302.13971.

Idea: one decoder gives every position a feature; a linear head turns it into scores over the
vocabulary; the loss is the mean negative log-likelihood of the true next tokens. Several
documents may be packed into one sequence; none sees another.

The pieces: the decoder is ``openlab/backbones/llama.py``, continuing a prompt is ``generate.py``.

B batch · T tokens · V vocabulary · D embedding
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm, Mode
from openlab.losses.linear_cross_entropy import linear_cross_entropy
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample

IGNORED = -100


@MODELS.register_module()
class CausalLMHead(nn.Module):
    """Scores over the vocabulary at every position.

    Args:
        in_channels: D; taken from the decoder where left out.
        vocab_size: V.
    """

    def __init__(self, in_channels: int, vocab_size: int):
        super().__init__()
        self.proj = nn.Linear(in_channels, vocab_size, bias=False)
        nn.init.normal_(self.proj.weight, std=0.02)

    def forward(self, feats: tuple[Tensor, ...], targets: Tensor | None = None) -> Tensor:
        """Last feature map, (B, T, D), to logits, (B, T, V).

        With ``targets``, (B, T), to the sum of their negative log-likelihoods, (), in blocks:
        the logits of a large vocabulary would take more memory than all else.
        """
        x = feats[-1]
        if targets is None:
            return self.proj(x)
        if type(self.proj) is not nn.Linear:  # LoRA, for instance, adds to the product
            return F.cross_entropy(self.proj(x).flatten(0, 1), targets.flatten(),
                                   ignore_index=IGNORED, reduction='sum')
        return linear_cross_entropy(x.flatten(0, 1), self.proj.weight, targets.flatten(), IGNORED)

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """Mean negative log-likelihood over the targets that are not ignored."""
        targets = stack_field(samples, 'target_tokens')
        num_items = (targets != IGNORED).sum()
        nll = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction='sum'
        )
        return {'loss': nll / num_items.clamp(min=1), 'num_items': num_items}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """Most likely next tokens, with the likelihood of the true ones.

        ``extra`` holds ``nll`` (sum of negative log-likelihoods in nats, float64) and
        ``num_tokens`` (over how many targets), from which metrics take perplexity and bits.
        """
        predictions = []
        for logits, sample in zip(outputs, samples, strict=True):
            extra = {}
            if sample.target_tokens is not None:
                target = sample.target_tokens
                nll = F.cross_entropy(
                    logits.float(), target, ignore_index=IGNORED, reduction='none'
                )
                extra = {'nll': nll.double().sum(), 'num_tokens': (target != IGNORED).sum()}
            predictions.append(
                DataSample(meta=sample.meta, tokens=logits.argmax(dim=-1), extra=extra)
            )
        return predictions


@MODELS.register_module()
class CausalLM(Algorithm):
    """A decoder under a next-token head.

    Args:
        backbone: decoder; called with tokens and document ids, gives (B, T, D).
        head: turns features into logits.
        tie_embeddings: let the head use the decoder's embedding matrix as its own.
        preprocessor: see ``Algorithm``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        tie_embeddings: bool = False,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.backbone: Any = backbone
        self.head: Any = head
        if tie_embeddings:
            self.tie()

    def tie(self) -> None:
        """Let the head use the decoder's embedding matrix as its own.

        Raises:
            ValueError: if the two have different shapes.
        """
        ours, theirs = self.head.proj.weight, self.backbone.embedding.weight
        if ours.shape != theirs.shape:
            raise ValueError(
                f'tie_embeddings needs equal shapes; the head has {tuple(ours.shape)}, the '
                f'embedding {tuple(theirs.shape)}: set head.vocab_size to backbone.vocab_size'
            )
        self.head.proj.weight = theirs

    @property
    def is_tied(self) -> bool:
        """Whether head and embedding are one matrix."""
        return self.head.proj.weight is self.backbone.embedding.weight

    def forward(
        self, inputs: Tensor, samples: list[DataSample] | None = None, mode: Mode = 'tensor'
    ) -> Any:
        """As in ``Algorithm``; the loss is computed without holding all logits."""
        if mode != 'loss' or samples is None:
            return super().forward(inputs, samples, mode)
        targets = stack_field(samples, 'target_tokens')
        feats = self.backbone(inputs, document_ids=packed_documents(samples))
        num_items = (targets != IGNORED).sum()
        return {'loss': self.head(feats, targets) / num_items.clamp(min=1), 'num_items': num_items}

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        """Tokens, (B, T), to logits, (B, T, V)."""
        return self.head(self.backbone(inputs, document_ids=packed_documents(samples)))

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """See ``CausalLMHead.loss``."""
        return self.head.loss(outputs, samples)

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """See ``CausalLMHead.predict``."""
        return self.head.predict(outputs, samples)


def packed_documents(samples: list[DataSample] | None) -> Tensor | None:
    """Document ids of a batch, (B, T), or ``None`` where every sequence is one document."""
    if not samples or samples[0].document_ids is None:
        return None
    return stack_field(samples, 'document_ids')


def stack_field(samples: list[DataSample], name: str) -> Tensor:
    """Stack one field of all samples; a missing one is an error that names the sample."""
    values = [getattr(sample, name) for sample in samples]
    for index, value in enumerate(values):
        if value is None:
            raise ValueError(f'sample {index} of the batch has no {name}: {samples[index]!r}')
    return torch.stack(values)


def shift_targets(sample: DataSample) -> DataSample:
    """Let each token of ``sample`` be the target of the one before it, within its document."""
    if sample.tokens is None:
        raise ValueError('shift_targets needs a sample with tokens')
    targets = torch.full_like(sample.tokens, IGNORED)
    targets[:-1] = sample.tokens[1:]
    if sample.document_ids is not None:
        crosses = sample.document_ids[1:] != sample.document_ids[:-1]
        targets[:-1][crosses] = IGNORED
    return replace(sample, target_tokens=targets)
