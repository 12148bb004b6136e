"""LLaMA: a decoder-only transformer for tokens.

Paper: LLaMA, https://arxiv.org/abs/2302.13971; grouped-query attention from
https://arxiv.org/abs/2305.13245.

Idea: pre-norm blocks of causal self-attention and a gated feed-forward network (SwiGLU), root
mean square norms, rotary positions and no biases. Queries share keys and values in groups, which
shrinks the cache that generation reads at every token.

What differs from the paper: query, key and value (and gate and value of the feed-forward) are one
matrix each, which computes the same with fewer, larger products. The pieces: one block, the
decoder, its cache.

B batch · T tokens · S tokens seen so far · D embedding · H query heads · G key/value heads ·
E dimension of one head · F feed-forward width
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.layers.attention import attend
from openlab.layers.norm import RMSNorm
from openlab.layers.rotary import RotaryEmbedding
from openlab.registry import MODELS


class KeyValueCache:
    """Keys and values of the tokens seen so far, in memory taken once.

    Args:
        num_layers: layers of the decoder.
        shape: (B, G, S_max, E) of one layer's keys.
        dtype: of the stored values.
        device: where they live.
    """

    def __init__(
        self,
        num_layers: int,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ):
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.length = 0
        self.capacity = shape[2]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append T new positions to a layer and return all of it, each (B, G, S + T, E)."""
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class LlamaAttention(nn.Module):
    """Causal self-attention with rotary positions and grouped key/value heads."""

    def __init__(self, embed_dim: int, num_heads: int, num_kv_heads: int, head_dim: int):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.qkv = nn.Linear(embed_dim, (num_heads + 2 * num_kv_heads) * head_dim, bias=False)
        self.out = nn.Linear(num_heads * head_dim, embed_dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: RotaryEmbedding,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        """Mix (B, T, D) over the positions that ``mask`` lets each token see."""
        B, T, _ = x.shape
        qkv = self.qkv(x).view(B, T, -1, self.head_dim).transpose(1, 2)
        num_rotated = self.num_heads + self.num_kv_heads
        unrotated, value = qkv.split([num_rotated, self.num_kv_heads], dim=1)
        query, key = rotary(unrotated, angles).split([self.num_heads, self.num_kv_heads], dim=1)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        mixed = attend(
            query, key, value,
            attn_mask=mask,
            is_causal=mask is None and T > 1,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )  # fmt: skip
        return self.out(mixed.transpose(1, 2).reshape(B, T, -1))


class SwiGLU(nn.Module):
    """Feed-forward network whose hidden layer is gated by SiLU.

    Paper: GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202 (eq. 6).
    """

    def __init__(self, embed_dim: int, hidden_dim: int):
        super().__init__()
        self.gate_up = nn.Linear(embed_dim, 2 * hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        hidden = self.gate_up(x)
        if hidden.requires_grad and not torch.compiler.is_compiling():
            return self.down(_GatedSiLU.apply(hidden))  # type: ignore[no-untyped-call]
        gate, up = hidden.chunk(2, dim=-1)
        return self.down(F.silu(gate).mul_(up))


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up of a joint (..., 2 F), which keeps its input alone.

    Left to autograd it would keep the activated gate as well, and put the gradients of both halves
    together from two tensors full of zeros.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        gate, up = hidden.chunk(2, dim=-1)
        grad = torch.empty_like(hidden)
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grad_output, out=grad_up)
        torch.mul(up, grad_output, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad


class LlamaBlock(nn.Module):
    """Attention, then feed-forward, each added to its input."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        hidden_dim: int,
        norm_eps: float,
    ):
        super().__init__()
        self.attention_norm = RMSNorm(embed_dim, norm_eps)
        self.attention = LlamaAttention(embed_dim, num_heads, num_kv_heads, head_dim)
        self.mlp_norm = RMSNorm(embed_dim, norm_eps)
        self.mlp = SwiGLU(embed_dim, hidden_dim)

    def forward(
        self,
        x: Tensor,
        rotary: RotaryEmbedding,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = _added(self.attention(self.attention_norm(x), rotary, angles, mask, cache, layer), x)
        return _added(self.mlp(self.mlp_norm(x)), x)


def _added(branch: Tensor, x: Tensor) -> Tensor:
    """The sum; under autocast in the format of ``x``, which adds up what all blocks say."""
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


@MODELS.register_module()
class LlamaDecoder(nn.Module):
    """Tokens to one feature vector each, every one knowing only what came before.

    Args:
        vocab_size: number of token ids.
        embed_dim: D.
        num_layers: blocks.
        num_heads: H; D must be divisible by it unless ``head_dim`` is given.
        num_kv_heads: G, a divisor of H; by default H (every query head has its own).
        hidden_dim: F; by default two thirds of 4 D, rounded up to a multiple of 64.
        context_length: the most positions that a sequence may have.
        head_dim: E, by default D / H.
        rope_base: base of the rotary wavelengths.
        rope_scaling: see ``RotaryEmbedding``.
        norm_eps: added to the mean square in norms, against division by zero.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        hidden_dim: int | None = None,
        context_length: int = 2048,
        head_dim: int | None = None,
        rope_base: float = 10_000.0,
        rope_scaling: dict[str, Any] | None = None,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if head_dim is None and embed_dim % num_heads:
            raise ValueError(f'embed_dim={embed_dim} is not divisible by num_heads={num_heads}')
        if num_heads % num_kv_heads:
            raise ValueError(
                f'num_heads={num_heads} is not divisible by num_kv_heads={num_kv_heads}'
            )
        head_dim = head_dim or embed_dim // num_heads
        hidden_dim = hidden_dim or -(-8 * embed_dim // 3 // 64) * 64
        self.vocab_size, self.context_length = vocab_size, context_length
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.rope_base, self.rope_scaling = rope_base, rope_scaling
        self.out_channels: tuple[int, ...] = (embed_dim,)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.rotary = RotaryEmbedding(head_dim, context_length, rope_base, rope_scaling)
        self.blocks = nn.ModuleList(
            LlamaBlock(embed_dim, num_heads, num_kv_heads, head_dim, hidden_dim, norm_eps)
            for _ in range(num_layers)
        )
        self.norm = RMSNorm(embed_dim, norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal with deviation 0.02; what adds to the residual stream shrinks with depth.

        GPT-2's scheme (Language Models are Unsupervised Multitask Learners, section 2.3).
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            adds_to_stream = name.endswith(('attention.out.weight', 'mlp.down.weight'))
            std = 0.02 / math.sqrt(2 * len(self.blocks)) if adds_to_stream else 0.02
            nn.init.normal_(parameter, std=std)

    def forward(
        self,
        tokens: Tensor,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Run the decoder.

        Args:
            tokens: ids, (B, T) int64.
            document_ids: which packed document each token belongs to, (B, T); a token sees only
                its own document, and positions start anew with each.
            cache: keys and values of earlier tokens, which ``tokens`` continue; it is extended.
            padding: number of padding tokens at the left of each sequence, (B,); only these are
                hidden and do not count as positions.

        Returns:
            A tuple with one element: features, (B, T, D).

        Raises:
            ValueError: for a sequence longer than ``context_length``, or (told on the CPU only,
                where looking costs nothing) a token beyond the vocabulary.
        """
        T = tokens.shape[1]
        start = 0 if cache is None else cache.length
        limit = self.context_length if cache is None else min(self.context_length, cache.capacity)
        if start + T > limit:
            raise ValueError(
                f'a sequence of {start + T} tokens exceeds the context of {limit}; '
                'shorten it or raise context_length'
            )
        if tokens.device.type == 'cpu' and not torch.compiler.is_compiling():
            _check_tokens(tokens, self.embedding.num_embeddings)
        mask, positions = _mask_and_positions(tokens, start, document_ids, padding)
        x = self.embedding(tokens)
        angles = self.rotary.angles(positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, self.rotary, angles, mask, cache, layer)
        if cache is not None:
            cache.length += T
        return (self.norm(x),)

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KeyValueCache:
        """Make an empty cache for ``capacity`` positions (by default the whole context)."""
        weight = self.embedding.weight
        shape = (batch_size, self.num_kv_heads, capacity or self.context_length, self.head_dim)
        return KeyValueCache(len(self.blocks), shape, weight.dtype, weight.device)


def _check_tokens(tokens: Tensor, vocab_size: int) -> None:
    wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(wrong):
        raise ValueError(
            f'token {int(wrong[0])} lies beyond the vocabulary of {vocab_size} (0 to '
            f'{vocab_size - 1}); the data need the tokenizer that the model was made for, or '
            'set vocab_size of the model to that of the tokenizer')


def _mask_and_positions(
    tokens: Tensor, start: int, document_ids: Tensor | None, padding: Tensor | None
) -> tuple[Tensor | None, Tensor | slice]:
    """Which positions each token sees, (B, 1, T, S) bool or ``None`` for plain causal."""
    T, device = tokens.shape[1], tokens.device
    if document_ids is not None:
        if start:
            raise ValueError('packed documents cannot continue a cache; start with an empty one')
        index = torch.arange(T, device=device)
        same = document_ids[:, :, None] == document_ids[:, None, :]
        mask = (same & (index[:, None] >= index[None, :])).unsqueeze(1)
        is_first = torch.ones_like(document_ids, dtype=torch.bool)
        is_first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        first = torch.where(is_first, index, 0).cummax(dim=1).values
        return mask, index - first
    if padding is not None:
        seen = torch.arange(start + T, device=device)
        query = seen[start:]
        visible = (seen[None, :] >= padding[:, None])[:, None, :] & (query[:, None] >= seen)
        # A padding token sees itself: a row without any visible position would give NaN.
        visible = visible | (query[:, None] == seen)
        return visible.unsqueeze(1), (query - padding[:, None]).clamp(min=0)
    if start and T > 1:
        seen = torch.arange(start + T, device=device)
        return (seen[start:, None] >= seen)[None, None], slice(start, start + T)
    return None, slice(start, start + T)
