"""LLaMA models from a GGUF file: weights (dequantised), tokenizer and chat template in one.

GGUF stores the query and key rows for rotary pairs of neighbours; our decoder, like the Hugging
Face layout, pairs the two halves of a head, so those rows are put back in order.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openlab.algorithms.llm.causal_lm import CausalLM
from openlab.data.tokenizer import INSTALL, Tokenizer
from openlab.zoo.hf_llama import build_from_hf, from_hf_state

_TENSORS = {
    'attn_norm': 'input_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}
_TOP = {
    'token_embd.weight': 'model.embed_tokens.weight',
    'output_norm.weight': 'model.norm.weight',
    'output.weight': 'lm_head.weight',
}
# Splitting of text before the merges, by the name that GGUF gives it.
_SPLITS_DIGITS = {'smollm': True, 'gpt-2': False, 'default': False}
_CONTROL = 3  # token type of special tokens


def load_gguf_llama(file: str | os.PathLike[str]) -> tuple[CausalLM, Tokenizer]:
    """Read the model (fp32, eval mode) and its tokenizer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not GGUF, or holds another architecture or tokenizer.
    """
    fields, tensors = _read(file)
    return build_from_hf(_config(fields, tensors), _state(fields, tensors)), tokenizer_of(fields)


def read_gguf_state(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights alone, under the names that ``CausalLM`` gives them."""
    return from_hf_state(_state(*_read(file)))


def _read(file: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(f'reading GGUF files needs gguf: {INSTALL}') from error

    if not Path(file).is_file():
        raise FileNotFoundError(f'no file {file}')
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError) as error:
        raise ValueError(f'{file} is not a readable GGUF file: {error}') from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields.get('general.architecture')
    if architecture != 'llama':
        raise ValueError(f"{file} holds the architecture {architecture!r}; accepted: 'llama'")
    return fields, reader.tensors


def _config(fields: dict[str, Any], tensors: Any) -> dict[str, Any]:
    names = {tensor.name: tensor for tensor in tensors}
    return {
        'model_type': 'llama',
        'vocab_size': int(names['token_embd.weight'].shape[1]),
        'hidden_size': fields['llama.embedding_length'],
        'num_hidden_layers': fields['llama.block_count'],
        'num_attention_heads': fields['llama.attention.head_count'],
        'num_key_value_heads': fields['llama.attention.head_count_kv'],
        'intermediate_size': fields['llama.feed_forward_length'],
        'max_position_embeddings': fields['llama.context_length'],
        'head_dim': fields.get('llama.attention.key_length'),
        'rope_theta': fields.get('llama.rope.freq_base', 10_000.0),
        'rms_norm_eps': fields['llama.attention.layer_norm_rms_epsilon'],
        'tie_word_embeddings': 'output.weight' not in names,
    }


def _state(fields: dict[str, Any], tensors: Any) -> dict[str, Tensor]:
    """Tensors by the names of the Hugging Face layout."""
    heads = {
        'attn_q': fields['llama.attention.head_count'],
        'attn_k': fields['llama.attention.head_count_kv'],
    }
    state = {}
    for tensor in tensors:
        values = _dequantise(tensor)
        if tensor.name in _TOP:
            state[_TOP[tensor.name]] = values
        elif tensor.name.startswith('blk.'):
            _, layer, name, kind = tensor.name.split('.')
            if name in heads:
                values = _pair_halves(values, heads[name])
            state[f'model.layers.{layer}.{_TENSORS[name]}.{kind}'] = values
        elif tensor.name != 'rope_freqs.weight':
            raise ValueError(f'unknown tensor {tensor.name!r} of a llama model')
    return state


def _dequantise(tensor: Any) -> Tensor:
    from gguf.quants import dequantize

    # GGUF lists dimensions with the fastest first; torch the other way round.
    shape = [int(n) for n in reversed(tensor.shape)]
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).view(shape)


def _pair_halves(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of each head from order (0, E/2, 1, E/2 + 1 ...) to (0, 1 ... E - 1)."""
    rows, columns = weight.shape
    pairs = weight.view(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def read_gguf_tokenizer(file: str | os.PathLike[str]) -> Tokenizer:
    """Read the tokenizer alone."""
    return tokenizer_of(_read(file)[0])


def tokenizer_of(fields: dict[str, Any]) -> Tokenizer:
    """Assemble the tokenizer that the fields of a GGUF file describe."""
    kind, split = fields.get('tokenizer.ggml.model'), fields.get('tokenizer.ggml.pre', 'default')
    if kind != 'gpt2' or split not in _SPLITS_DIGITS:
        raise ValueError(
            f'the tokenizer is {kind!r} with splitting {split!r}; accepted: byte-level BPE '
            f"('gpt2') with {sorted(_SPLITS_DIGITS)}"
        )
    tokens = fields['tokenizer.ggml.tokens']
    types = fields['tokenizer.ggml.token_type']
    return Tokenizer.from_merges(
        tokens,
        fields['tokenizer.ggml.merges'],
        special_tokens=[t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL],
        stop_tokens=[tokens[fields['tokenizer.ggml.eos_token_id']]],
        chat_template=fields.get('tokenizer.chat_template', ''),
        split_digits=_SPLITS_DIGITS[split],
    )
