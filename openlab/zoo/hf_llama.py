"""LLaMA weights in the Hugging Face layout: ``config.json`` beside ``model.safetensors``.

The layout splits what our decoder joins (query, key and value; gate and up), so this is more than
a renaming: ``from_hf_state`` and ``to_hf_state`` are exact inverses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead
from openlab.backbones.llama import LlamaDecoder

_LAYER = 'model.layers.{}.'
_RENAMED = {
    'self_attn.o_proj.weight': 'attention.out.weight',
    'mlp.down_proj.weight': 'mlp.down.weight',
    'input_layernorm.weight': 'attention_norm.weight',
    'post_attention_layernorm.weight': 'mlp_norm.weight',
}
_JOINED = {
    'attention.qkv.weight': (
        'self_attn.q_proj.weight', 'self_attn.k_proj.weight', 'self_attn.v_proj.weight',
    ),
    'mlp.gate_up.weight': ('mlp.gate_proj.weight', 'mlp.up_proj.weight'),
}  # fmt: skip


def decoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of ``LlamaDecoder`` for a Hugging Face ``config.json``.

    Raises:
        ValueError: for an option of that layout which our decoder does not compute.
    """
    if config.get('model_type', 'llama') != 'llama':
        raise ValueError(f"model_type is {config['model_type']!r}; this layout is for 'llama'")
    for key, accepted in (
        ('attention_bias', (False, None)), ('mlp_bias', (False, None)),
        ('hidden_act', ('silu', None)),
    ):  # fmt: skip
        if config.get(key) not in accepted:
            raise ValueError(f'config.json has {key}={config[key]!r}; LlamaDecoder has none such')
    # transformers 5 moved the rotary settings into rope_parameters; older files keep rope_theta.
    rope = dict(config.get('rope_parameters') or config.get('rope_scaling') or {})
    return {
        'vocab_size': config['vocab_size'],
        'embed_dim': config['hidden_size'],
        'num_layers': config['num_hidden_layers'],
        'num_heads': config['num_attention_heads'],
        'num_kv_heads': config.get('num_key_value_heads'),
        'hidden_dim': config['intermediate_size'],
        'context_length': config['max_position_embeddings'],
        'head_dim': config.get('head_dim'),
        'rope_base': float(rope.get('rope_theta') or config.get('rope_theta', 10_000.0)),
        'rope_scaling': _rope_scaling(rope),
        'norm_eps': config['rms_norm_eps'],
    }


def _rope_scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind == 'default':
        return None
    if kind == 'linear':
        return {'kind': 'linear', 'factor': rope['factor']}
    if kind != 'llama3':
        raise ValueError(f"rope scaling {kind!r} is unknown; accepted: 'linear', 'llama3'")
    return {
        'kind': 'llama3',
        'factor': rope['factor'],
        'low_freq_factor': rope['low_freq_factor'],
        'high_freq_factor': rope['high_freq_factor'],
        'original_context_length': rope['original_max_position_embeddings'],
    }


def hf_config(model: CausalLM) -> dict[str, Any]:
    """The ``config.json`` that describes ``model`` to transformers."""
    decoder: LlamaDecoder = model.backbone
    block: Any = decoder.blocks[0]
    rope: dict[str, Any] = {'rope_theta': decoder.rope_base}
    if decoder.rope_scaling:
        options = dict(decoder.rope_scaling)
        rope |= {'rope_type': options.pop('kind'), 'factor': options.pop('factor')}
        if 'original_context_length' in options:
            rope['original_max_position_embeddings'] = options.pop('original_context_length')
        rope |= options
    return {
        'architectures': ['LlamaForCausalLM'],
        'model_type': 'llama',
        'vocab_size': decoder.vocab_size,
        'hidden_size': decoder.out_channels[-1],
        'num_hidden_layers': len(decoder.blocks),
        'num_attention_heads': block.attention.num_heads,
        'num_key_value_heads': decoder.num_kv_heads,
        'intermediate_size': block.mlp.down.in_features,
        'max_position_embeddings': decoder.context_length,
        'head_dim': decoder.head_dim,
        'rope_theta': decoder.rope_base,
        'rope_scaling': rope if decoder.rope_scaling else None,
        'rms_norm_eps': decoder.norm.eps,
        'hidden_act': 'silu',
        'attention_bias': False,
        'mlp_bias': False,
        'tie_word_embeddings': model.is_tied,
        'torch_dtype': str(decoder.embedding.weight.dtype).removeprefix('torch.'),
    }


def from_hf_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and tensors of ``LlamaForCausalLM`` to those of ``CausalLM``.

    Raises:
        ValueError: if names are missing or left over; all of them are listed.
    """
    left = {k: v for k, v in state.items() if not k.endswith('rotary_emb.inv_freq')}
    ours: dict[str, Tensor] = {}
    missing = []

    def take(name: str) -> Tensor:
        if name not in left:
            missing.append(name)
        return left.pop(name, torch.empty(0))

    embedding = take('model.embed_tokens.weight')
    ours['backbone.embedding.weight'] = embedding
    ours['backbone.norm.weight'] = take('model.norm.weight')
    ours['head.proj.weight'] = left.pop('lm_head.weight', embedding)
    layers = {int(k.split('.')[2]) for k in left if k.startswith('model.layers.')}
    for layer in sorted(layers):
        theirs, mine = _LAYER.format(layer), f'backbone.blocks.{layer}.'
        for old, new in _RENAMED.items():
            ours[mine + new] = take(theirs + old)
        for new, parts in _JOINED.items():
            tensors = [take(theirs + part) for part in parts]
            if not missing:
                ours[mine + new] = torch.cat(tensors)
    if missing or left:
        raise ValueError(
            f'not the weights of LlamaForCausalLM: missing {missing or "nothing"}, '
            f'unknown {sorted(left) or "nothing"}'
        )
    return ours


def to_hf_state(model: CausalLM) -> dict[str, Tensor]:
    """Names and tensors of ``CausalLM`` to those of ``LlamaForCausalLM``."""
    state = model.state_dict()
    decoder: LlamaDecoder = model.backbone
    block: Any = decoder.blocks[0]
    heads = [block.attention.num_heads, decoder.num_kv_heads, decoder.num_kv_heads]
    theirs = {
        'model.embed_tokens.weight': state['backbone.embedding.weight'],
        'model.norm.weight': state['backbone.norm.weight'],
    }
    if not model.is_tied:
        theirs['lm_head.weight'] = state['head.proj.weight']
    for layer in range(len(decoder.blocks)):
        mine = f'backbone.blocks.{layer}.'
        for old, new in _RENAMED.items():
            theirs[_LAYER.format(layer) + old] = state[mine + new]
        for new, parts in _JOINED.items():
            tensor = state[mine + new]
            sizes = [h * decoder.head_dim for h in heads] if len(parts) == 3 else len(tensor) // 2
            for part, piece in zip(parts, tensor.split(sizes), strict=True):
                theirs[_LAYER.format(layer) + part] = piece.contiguous()
    return theirs


def load_hf_llama(folder: str | os.PathLike[str]) -> CausalLM:
    """Build the model that a folder in the Hugging Face layout holds, with its weights.

    Raises:
        FileNotFoundError: if ``config.json`` or the weights are missing.
        ValueError: if names or shapes do not fit.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    config = json.loads(_required(folder / 'config.json').read_text(encoding='utf-8'))
    index = folder / 'model.safetensors.index.json'
    files = ['model.safetensors']
    if index.exists():
        files = sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
    state: dict[str, Tensor] = {}
    for file in files:
        state |= load_file(_required(folder / file))
    return build_from_hf(config, state)


def build_from_hf(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> CausalLM:
    """Build ``CausalLM`` from the contents of ``config.json`` and the named tensors."""
    with torch.device('meta'):
        decoder = LlamaDecoder(**decoder_arguments(config))
        head = CausalLMHead(decoder.out_channels[-1], decoder.vocab_size)
        model = CausalLM(decoder, head, tie_embeddings=config.get('tie_word_embeddings', False))
    model.to_empty(device='cpu')
    if config.get('tie_word_embeddings', False):
        model.tie()
    decoder.rotary.reset()
    model.load_state_dict(from_hf_state(state))
    return model.eval()


def save_hf_llama(model: CausalLM, folder: str | os.PathLike[str]) -> None:
    """Write ``model`` so that transformers, and what builds on it, can load the folder."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / 'model.safetensors.partial'
    save_file(to_hf_state(model), partial, metadata={'format': 'pt'})
    partial.replace(folder / 'model.safetensors')
    text = json.dumps(hf_config(model), indent=2) + '\n'
    (folder / 'config.json').write_text(text, encoding='utf-8')


def _required(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f'{path.name} is missing in {path.parent}')
    return path
