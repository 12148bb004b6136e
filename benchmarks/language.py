"""Training step, memory and decoding of our LLaMA, against transformers' LlamaForCausalLM.

Both sides hold the same weights (ours read through the Hugging Face layout) in two sizes: that of
``configs/quickstart/language_model.py``, which trains on a CPU in minutes, and one with the
vocabulary of LLaMA, 32,000. Theirs is used as its users do: ``attn_implementation='sdpa'``,
``labels=`` in training and ``generate`` with its cache.

* A training step: forward, loss, backward, one step of the fused AdamW on both sides, in each of
  two formats: float32, and bfloat16 by torch's autocast. The limit is on the one that
  ``precision='auto'`` takes on this machine. In float32 on a CPU the same matrix products take
  most of the time on both sides; the part that is left bounds what anyone can win.
* Memory: the most that tensors take during a step beyond what is there before it (weights, states
  of AdamW), from torch's own record of every allocation, in either format.
* Decoding: 96 tokens after a prompt of 16, one sequence, the likeliest token each time. The limit
  is on the small size. In the large one nearly all of the time goes into reading the matrix of the
  vocabulary from memory, once for each token on either side.

Losses and decoded tokens are compared before anything is timed. One thread each, turn by turn, in
seconds of CPU: other programs on the machine disturb that least.

    python benchmarks/language.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks._common import Report, interleaved, peak_memory
from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead, shift_targets
from openlab.algorithms.llm.generate import Sampling, generate
from openlab.backbones.llama import LlamaDecoder
from openlab.engine.precision import resolve_precision
from openlab.structures.data_sample import DataSample
from openlab.zoo.hf_llama import from_hf_state

PROMPT, NEW = 16, 96
PRECISIONS = ('float32', 'bfloat16')


@dataclass(frozen=True)
class Size:
    """One model and its batch; embeddings are tied on both sides."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    tokens: int
    batch: int

    @property
    def hidden(self) -> int:
        """Width of the feed-forward network."""
        return -(-8 * self.width // 3 // 64) * 64


SIZES = {
    'quickstart': Size(2048, 192, 4, 6, 2, 128, 16),
    'vocabulary_32k': Size(32_000, 256, 4, 8, 4, 256, 4),
}
DECODING = ('quickstart',)  # sizes whose decoding has a limit


def make_pair(size: Size) -> tuple[CausalLM, Any]:
    """Ours and theirs with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(
        vocab_size=size.vocab, hidden_size=size.width, intermediate_size=size.hidden,
        num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, max_position_embeddings=size.tokens,
        rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation='sdpa',
        bos_token_id=None, eos_token_id=None, pad_token_id=0))  # fmt: skip
    decoder = LlamaDecoder(size.vocab, size.width, size.layers, size.heads, size.kv_heads,
                           size.hidden, size.tokens)
    ours = CausalLM(decoder, CausalLMHead(size.width, size.vocab), tie_embeddings=True)
    ours.load_state_dict(from_hf_state(theirs.state_dict()))
    return ours, theirs


def train_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One step of AdamW as a function."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        found = loss()
        optimizer.zero_grad()
        found.backward()
        optimizer.step()

    return step


def chosen_precision() -> str:
    """Which of the formats training takes here."""
    return 'float32' if resolve_precision('cpu', 'auto') == 'fp32' else 'bfloat16'


def in_precision(loss: Callable[[], Tensor], precision: str) -> Callable[[], Tensor]:
    """The same loss, computed in a format."""

    def run() -> Tensor:
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16'):
            return loss()

    return run


def decoders(ours: CausalLM, theirs: Any, prompt: Tensor) -> dict[str, Callable[[], list[int]]]:
    """Both ways to continue one prompt."""
    sampling = Sampling(max_new_tokens=NEW)
    mask = torch.ones(1, len(prompt), dtype=torch.long)

    def our_way() -> list[int]:
        return generate(ours, [prompt.tolist()], sampling)[0]

    def their_way() -> list[int]:
        out = theirs.generate(input_ids=prompt[None], attention_mask=mask, do_sample=False,
                              max_new_tokens=NEW, min_new_tokens=NEW, use_cache=True)
        return out[0, len(prompt):].tolist()

    return {'openlab': our_way, 'transformers': their_way}


def compare(report: Report, name: str, turns: int) -> None:
    """Check, weigh and time one size."""
    size = SIZES[name]
    ours, theirs = make_pair(size)
    count = sum(p.numel() for p in ours.parameters())
    report.measured(f'{name}: parameters', count / 1e6, 'million',
                    f'{size.layers} layers of {size.width}, vocabulary {size.vocab}, '
                    f'{size.batch} x {size.tokens} tokens')
    tokens = torch.randint(size.vocab, (size.batch, size.tokens))
    samples = [shift_targets(DataSample(tokens=t)) for t in tokens]
    losses: dict[str, Callable[[], Tensor]] = {
        'openlab': lambda: ours(tokens, samples, mode='loss')['loss'],
        'transformers': lambda: theirs(input_ids=tokens, labels=tokens).loss}
    for precision in PRECISIONS:
        mine, other = (in_precision(losses[side], precision)().item() for side in losses)
        limit = 1e-4 if precision == 'float32' else 1e-3  # three digits are what bfloat16 has
        report.at_most(f'{name}_losses_differ_by_{precision}', abs(mine / other - 1), limit)

    ours.eval(), theirs.eval()
    ways = decoders(ours, theirs, tokens[0, :PROMPT])
    same = [a == b for a, b in zip(ways['openlab'](), ways['transformers'](), strict=True)]
    report.at_most(f'{name}_decoded_tokens_that_differ', 1 - sum(same) / NEW, 0)
    decoding = interleaved(ways, turns=turns, clock=time.process_time)
    report.timings({f'{name} token {k}': t for k, t in decoding.items()}, per=NEW)

    ours.train(), theirs.train()
    models: dict[str, nn.Module] = {'openlab': ours, 'transformers': theirs}
    for precision in PRECISIONS:
        steps = {side: train_step(models[side], in_precision(losses[side], precision))
                 for side in models}
        for side, step in steps.items():
            step()
            models[side].zero_grad()  # torch's record does not know what was allocated before it
        compare_training(report, f'{name}_{precision}', steps, turns,
                         with_limit=precision == chosen_precision())
    speed = decoding['transformers'].median / decoding['openlab'].median
    if name in DECODING:
        report.at_least(f'{name}_decoding_speed_over_transformers', speed, 1.5)
    else:
        report.measured(f'{name} decoding, over transformers', speed, 'x')


def compare_training(report: Report, name: str, steps: dict[str, Callable[[], None]], turns: int,
                     with_limit: bool) -> None:
    """Weigh and time a training step of both sides."""
    memory = {side: peak_memory(step) / 2**20 for side, step in steps.items()}
    training = interleaved(steps, turns=turns, clock=time.process_time)
    report.timings({f'{name} step {k}': t for k, t in training.items()})
    for side, value in memory.items():
        report.measured(f'{name} memory {side}', value, 'MiB', 'most in a step')
    speed = training['transformers'].median / training['openlab'].median
    if with_limit:
        report.at_least(f'{name}_step_speed_over_transformers', speed, 1.2)
    else:
        report.measured(f'{name} step, over transformers', speed, 'x')
    report.at_most(f'{name}_memory_over_transformers',
                   memory['openlab'] / memory['transformers'], 1.0)


def main() -> int:
    """Compare both sizes, or the named one."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('names', nargs='*', help=f'of {", ".join(SIZES)}; by default all')
    parser.add_argument('--turns', type=int, default=9)
    args = parser.parse_args()
    unknown = set(args.names) - set(SIZES)
    if unknown:
        parser.error(f'{sorted(unknown)} are none of {", ".join(SIZES)}')
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    report = Report('language model: step, memory and decoding, one thread')
    for name in args.names or SIZES:
        compare(report, name, args.turns)
    return report.finish()


if __name__ == '__main__':
    sys.exit(main())
