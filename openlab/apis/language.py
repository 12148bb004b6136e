"""Language models from wherever they lie, ready to continue text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from openlab.algorithms.llm.causal_lm import CausalLM
from openlab.algorithms.llm.generate import Sampling, generate_tokens
from openlab.algorithms.llm.lora import LoRA
from openlab.config.build import build
from openlab.data.tokenizer import Tokenizer
from openlab.zoo.sources import fetch


def load_language_model(
    source: str | Path, tokenizer: str | Path | None = None, device: str = 'cpu'
) -> tuple[CausalLM, Tokenizer]:
    """Load a model and its tokenizer.

    Args:
        source: a run of ours (work_dir or checkpoint), a folder in the Hugging Face layout, or a
            ``.gguf`` file; also by an address (see ``zoo.sources.fetch``).
        tokenizer: folder of another tokenizer than the one that lies with the weights.
        device: where the model goes.

    Raises:
        FileNotFoundError: if there is nothing at ``source``.
        ValueError: if it holds no language model.
    """
    path = fetch(source)
    if path.suffix == '.gguf':
        from openlab.zoo.gguf_llama import load_gguf_llama

        model, found = load_gguf_llama(path)
    elif (path / 'config.json').exists():
        from openlab.zoo.hf_llama import load_hf_llama

        model, found = load_hf_llama(path), Tokenizer.load(tokenizer or path)
    else:
        model, found = _from_run(path, tokenizer)
    if tokenizer is not None:
        found = Tokenizer.load(tokenizer)
    return model.to(device).eval(), found


def _from_run(path: Path, tokenizer: str | Path | None) -> tuple[CausalLM, Tokenizer]:
    from openlab.engine.checkpoint import load_weights, read_metadata, resolve_checkpoint

    folder = resolve_checkpoint(path)
    config = read_metadata(folder).get('config')
    if not config:
        raise ValueError(f'{folder} does not say which model its weights belong to')
    model = build(config['model'], path='model')
    is_adapted = isinstance(model, LoRA)
    if not isinstance(model.base if is_adapted else model, CausalLM):
        raise ValueError(
            f'{folder} holds a {type(model).__name__}; text is continued by a CausalLM'
        )
    load_weights(model, folder)
    model = model.merge() if is_adapted else model
    return model, Tokenizer.load(tokenizer or (folder if folder.is_dir() else folder.parent))


def stream_text(
    model: CausalLM, tokenizer: Tokenizer, prompt: str, sampling: Sampling
) -> Iterator[str]:
    """Yield pieces of the continuation as soon as they are whole characters."""
    sampling.stop_tokens = sampling.stop_tokens or tokenizer.stop_ids
    tokens: list[int] = []
    written = ''
    for (token,) in generate_tokens(model, [tokenizer.encode(prompt)], sampling):
        if token is None:
            return
        tokens.append(token)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        # A character of several bytes may still be incomplete; it then shows as U+FFFD.
        if not text.endswith('\ufffd'):
            yield text[len(written) :]
            written = text
    rest = tokenizer.decode(tokens, skip_special_tokens=True)[len(written) :]
    if rest:
        yield rest


def chat_turn(
    model: CausalLM,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    sampling: Sampling,
) -> Iterator[str]:
    """Yield the pieces of the answer to a conversation; see ``Tokenizer.chat_prompt``."""
    yield from stream_text(model, tokenizer, tokenizer.chat_prompt(messages), sampling)
