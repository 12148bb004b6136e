"""The text towers of CLIP and SigLIP: a caption to one vector.

* Radford et al., CLIP, https://arxiv.org/abs/2103.00020, section 2.4
* Zhai et al., SigLIP, https://arxiv.org/abs/2303.15343

CLIP reads from left to right and takes the features of the end of the text; SigLIP reads in both
directions and takes those of the last position, padding or not.

B batch · T tokens · D embedding
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from openlab.layers.init import init_transformer
from openlab.layers.norm import make_norm
from openlab.layers.transformer import TransformerBlock
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_KEYS = (
    (r'^embeddings\.token_embedding\.', 'embedding.'),
    (r'^embeddings\.position_embedding\.weight$', 'position'),
    (r'^final_layer_norm\.', 'norm.'),
    (r'^encoder\.layers\.', 'blocks.'),
    (r'\.layer_norm([12])\.', r'.norm\1.'),
    (r'\.self_attn\.out_proj\.', '.attn.proj.'),
    (r'^head\.', 'proj.'),
)


@MODELS.register_module()
class TextTransformer(nn.Module):
    """Token ids to one vector for each text.

    Args:
        vocab_size: number of token ids.
        embed_dim: size of a token (D).
        depth: number of blocks.
        num_heads: heads of each attention.
        context_length: the most tokens of a text.
        out_dim: size of the vector; by default ``embed_dim``.
        mlp_ratio: hidden size of the MLPs over ``embed_dim``.
        is_causal: a token sees only what comes before it (CLIP).
        end_id: the vector is that of the first token with this id; ``None``: of the last position
            (SigLIP).
        proj_bias: add a bias to the last projection.
        norm: see ``make_norm``; by default ``nn.LayerNorm`` with eps 1e-5.
        act: see ``make_act``; by default GELU.
    """

    weights = (
        KeyMap('transformers', _KEYS, drops=((r'position_ids$', 'counts from 0'),),
               transforms=((r'^position$', lambda tensor: tensor[None]),),
               merges=((r'\.self_attn\.([qkv])_proj\.', '.attn.qkv.', ('q', 'k', 'v')),),
               signature=(r'^embeddings\.token_embedding\.', r'^final_layer_norm\.')),
    )

    def __init__(
        self,
        vocab_size: int = 49408,
        embed_dim: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        context_length: int = 77,
        out_dim: int | None = None,
        mlp_ratio: float = 4.0,
        is_causal: bool = True,
        end_id: int | None = 49407,
        proj_bias: bool = False,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        norm = norm or {'type': nn.LayerNorm, 'eps': 1e-5}
        self.is_causal, self.end_id, self.context_length = is_causal, end_id, context_length
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.position = nn.Parameter(torch.empty(1, context_length, embed_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, norm=norm, act=act)
            for _ in range(depth))
        self.norm = make_norm(embed_dim, norm)
        self.proj = nn.Linear(embed_dim, out_dim or embed_dim, bias=proj_bias)
        self.out_channels = (out_dim or embed_dim,)
        init_transformer(self)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {'position', 'embedding.weight'}

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors (B, out_dim) of token ids (B, T).

        Raises:
            ValueError: for a text longer than ``context_length``.
        """
        T = tokens.shape[1]
        if self.context_length < T:
            raise ValueError(f'a text of {T} tokens exceeds the context of {self.context_length}; '
                             'shorten it')
        x = self.embedding(tokens) + self.position[:, :T]
        mask = None
        if self.is_causal:
            mask = torch.ones(T, T, dtype=torch.bool, device=tokens.device).tril()
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if self.end_id is None:
            return self.proj(x[:, -1])
        end = (tokens == self.end_id).int().argmax(1)
        return self.proj(x[torch.arange(len(x), device=x.device), end])
