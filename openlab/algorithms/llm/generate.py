"""Continue prompts, one token at a time.

Sampling: top-k (Hierarchical Neural Story Generation, https://arxiv.org/abs/1805.04833) and
nucleus (The Curious Case of Neural Text Degeneration, https://arxiv.org/abs/1904.09751).

B batch · T tokens of the longest prompt · V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openlab.algorithms.llm.causal_lm import CausalLM


@dataclass
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: the most tokens to add to a prompt.
        temperature: 0 always takes the likeliest token; larger is more varied.
        top_k: keep only the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest tokens whose probabilities reach this sum; 1 keeps all.
        repetition_penalty: divide positive (multiply negative) scores of tokens already seen.
        stop_tokens: ids that end a sequence.
        seed: of the random draws; ``None`` takes torch's global generator.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop_tokens: Sequence[int] = field(default_factory=tuple)
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f'temperature must be 0 or more, not {self.temperature}')
        if not 0 < self.top_p <= 1:
            raise ValueError(f'top_p must be in (0, 1], not {self.top_p}')
        if self.repetition_penalty <= 0:
            raise ValueError(f'repetition_penalty must be positive, not {self.repetition_penalty}')


@torch.inference_mode()
def generate_tokens(
    model: CausalLM, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> Iterator[list[int | None]]:
    """Yield the next token of every prompt, step by step, until all have ended.

    Args:
        model: language model, in eval mode.
        prompts: token ids of each prompt; lengths may differ, none may be empty.
        sampling: how tokens are chosen and when to stop.

    Yields:
        One id for each prompt; ``None`` for those that have ended.

    Raises:
        ValueError: for an empty prompt, an id beyond the vocabulary, or a prompt that fills the
            context.
    """
    decoder = model.backbone
    _check_prompts(prompts, decoder.vocab_size, decoder.context_length)
    device = decoder.embedding.weight.device
    longest = max(map(len, prompts))
    num_new = min(sampling.max_new_tokens, decoder.context_length - longest)
    cache = decoder.new_cache(len(prompts), longest + num_new)
    padding: Tensor | None = torch.tensor([longest - len(p) for p in prompts], device=device)
    tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    if len(set(map(len, prompts))) == 1:
        padding = None
    seen = None
    if sampling.repetition_penalty != 1:
        seen = torch.zeros(len(prompts), decoder.vocab_size, dtype=torch.bool, device=device)
        for row, prompt in zip(seen, prompts, strict=True):
            row[torch.tensor(list(prompt), device=device)] = True
    generator = None
    if sampling.seed is not None:
        generator = torch.Generator(device).manual_seed(sampling.seed)
    stop = set(sampling.stop_tokens)
    ended = [False] * len(prompts)
    for _ in range(num_new):
        (features,) = decoder(tokens, cache=cache, padding=padding)
        logits = model.head((features[:, -1:],))[:, -1].float()
        chosen = choose_tokens(logits, sampling, seen, generator)
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        ids: list[int | None] = list(chosen.tolist())
        for i, token in enumerate(ids):
            if ended[i] or token in stop:
                ended[i], ids[i] = True, None
        if all(ended):
            return
        yield ids
        tokens = chosen[:, None]


def generate(
    model: CausalLM, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> list[list[int]]:
    """Return all new tokens of each prompt; see ``generate_tokens``."""
    continued: list[list[int]] = [[] for _ in prompts]
    for step in generate_tokens(model, prompts, sampling):
        for new, token in zip(continued, step, strict=True):
            if token is not None:
                new.append(token)
    return continued


def choose_tokens(
    logits: Tensor,
    sampling: Sampling,
    seen: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one token of each row of ``logits``, (B, V) to (B,)."""
    if seen is not None:
        penalty = sampling.repetition_penalty
        scaled = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, scaled, logits)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float('-inf'))
    if sampling.top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1)
        # A token stays while the ones before it do not reach top_p, so the likeliest always does.
        outside = probs.cumsum(dim=-1) - probs >= sampling.top_p
        logits = logits.masked_fill(outside.scatter(1, index, outside), float('-inf'))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int, context: int) -> None:
    if not prompts:
        raise ValueError('there is no prompt to continue')
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f'prompt {number} is empty; begin with at least one token')
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            bad = next(t for t in prompt if not 0 <= t < vocab_size)
            raise ValueError(
                f'prompt {number} has token id {bad}, but the vocabulary ends at '
                f'{vocab_size - 1}; is it the tokenizer of another model?'
            )
        if len(prompt) >= context:
            raise ValueError(
                f'prompt {number} has {len(prompt)} tokens and leaves no room in the context '
                f'of {context}; shorten it'
            )
