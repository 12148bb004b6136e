"""LeViT: attention on shrinking maps, with the parts and the speed of a convolutional network.

Graham et al., LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference,
https://arxiv.org/abs/2104.01136

Four strided convolutions make a map of stride 16; attention and small MLPs follow, all with batch
normalisation. Between stages the queries are taken from every second place, which halves the map.
There is no class token; two classifiers read the mean of the last map (``DistilledHead`` with
``norm=dict(type=nn.BatchNorm1d)``). Stages are counted by their stride, from 4 (16) to 6 (64).

B batch · C channels · H, W height and width of a map · h heads
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.attention import attend
from openlab.layers.conv import ConvNormAct
from openlab.layers.distance_bias import DistanceBias
from openlab.layers.drop import DropPath
from openlab.layers.init import init_transformer, zero_scale
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...], tuple[int, ...]]] = {
    # table 3: channels of each stage, size of a query, heads and blocks of each stage
    '128s': ((128, 256, 384), 16, (4, 6, 8), (2, 3, 4)),
    '128': ((128, 256, 384), 16, (4, 8, 12), (4, 4, 4)),
    '192': ((192, 288, 384), 32, (3, 5, 6), (4, 4, 4)),
    '256': ((256, 384, 512), 32, (4, 6, 8), (4, 4, 4)),
    '384': ((384, 512, 768), 32, (6, 9, 12), (4, 4, 4)),
}
_STEM_STRIDE = 16


class LinearNorm(nn.Sequential):
    """A linear layer without bias and its batch normalisation, as ``linear`` and ``norm``.

    Args:
        in_dim: channels that come in.
        out_dim: channels that go out.
        starts_at_zero: put out zero until the scale of the norm has been trained.
    """

    def __init__(self, in_dim: int, out_dim: int, starts_at_zero: bool = False):
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.norm = nn.BatchNorm1d(out_dim)
        if starts_at_zero:
            zero_scale(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        x = self.linear(x)
        return self.norm(x.flatten(0, -2)).view_as(x)


class LeViTAttention(nn.Module):
    """Attention with a bias by distance; an activation stands before the last layer.

    Args:
        in_dim: channels that come in (C).
        out_dim: channels that go out.
        key_dim: size of a query and of a key.
        num_heads: number of heads (h).
        value_ratio: size of a value over ``key_dim``.
        grid: (H, W) that biases are learned for.
        stride: step between the places that ask.
        act: see ``make_act``.
    """

    def __init__(self, in_dim: int, out_dim: int, key_dim: int, num_heads: int, value_ratio: int,
                 grid: tuple[int, int], stride: int = 1, act: dict[str, Any] | None = None):
        super().__init__()
        self.num_heads, self.stride = num_heads, stride
        self.sizes = (key_dim, value_ratio * key_dim)
        self.q: LinearNorm | None = None
        if stride > 1:
            self.q = LinearNorm(in_dim, num_heads * key_dim)
            self.kv = LinearNorm(in_dim, num_heads * sum(self.sizes))
        else:
            self.qkv = LinearNorm(in_dim, num_heads * (key_dim + sum(self.sizes)))
        self.act = make_act(act)
        # Where the map shrinks there is no residual that could stand for the branch.
        self.proj = LinearNorm(num_heads * self.sizes[1], out_dim, starts_at_zero=stride == 1)
        self.bias = DistanceBias(num_heads, grid, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / stride, W / stride, out_dim), sizes rounded up."""
        grid = (x.shape[1], x.shape[2])
        if self.q is None:
            q, k, v = self._heads(self.qkv(x)).split((self.sizes[0], *self.sizes), dim=-1)
            out_grid = grid
        else:
            k, v = self._heads(self.kv(x)).split(self.sizes, dim=-1)
            asking = self.q(x[:, :: self.stride, :: self.stride])
            out_grid = (asking.shape[1], asking.shape[2])
            q = self._heads(asking)
        x = attend(q, k, v, attn_mask=self.bias(grid)[None].to(q.dtype))
        return self.proj(self.act(x.transpose(1, 2).flatten(2))).unflatten(1, out_grid)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, H, W, h D) as (B, h, H W, D)."""
        return x.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class LeViTMLP(nn.Module):
    """Two linear layers with norms, and an activation between them.

    Args:
        channels: channels of input and output (C).
        hidden_dim: channels between the layers.
        act: see ``make_act``.
    """

    def __init__(self, channels: int, hidden_dim: int, act: dict[str, Any] | None = None):
        super().__init__()
        self.fc1 = LinearNorm(channels, hidden_dim)
        self.act = make_act(act)
        self.fc2 = LinearNorm(hidden_dim, channels, starts_at_zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        return self.fc2(self.act(self.fc1(x)))


class LeViTBlock(nn.Module):
    """Attention and an MLP; the attention has a residual around it unless it shrinks the map.

    Args:
        attn: mixes places.
        mlp: mixes channels.
        with_residual: add the input of the attention to its output.
        drop_path: probability to leave out each branch with a residual in training.
    """

    def __init__(self, attn: nn.Module, mlp: nn.Module, with_residual: bool, drop_path: float):
        super().__init__()
        self.attn, self.mlp, self.with_residual = attn, mlp, with_residual
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape, or to a map of half the size."""
        x = x + self.drop_path(self.attn(x)) if self.with_residual else self.attn(x)
        return x + self.drop_path(self.mlp(x))


class LeViTStage(nn.Module):
    """A block that halves the map (not in the first stage) and blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, D), or in the first stage to the same shape."""
        return self.blocks(self.downsample(x))


def _as_linear(weight: Tensor) -> Tensor:
    """Weights of a 1x1 convolution (timm's ``levit_conv``) as those of a linear layer."""
    return weight.flatten(1) if weight.ndim == 4 else weight


_TIMM_KEYS = (
    *((rf'^stem\.conv{i + 1}\.linear\.', f'stem.{i}.conv.') for i in range(4)),
    *((rf'^stem\.conv{i + 1}\.bn\.', f'stem.{i}.norm.') for i in range(4)),
    (r'\.attn_downsample\.', '.attn.'),
    (r'\.(proj|q)\.ln\.', r'.\1.'),
    (r'\.mlp\.ln([12])\.', r'.mlp.fc\1.'),
    (r'\.attention_biases$', '.bias.table'),
    (r'^head\.bn\.', '../head.norm.'),
    (r'^head\.linear\.', '../head.fc.'),
    (r'^head_dist\.bn\.', '../head.norm_distill.'),
    (r'^head_dist\.linear\.', '../head.fc_distill.'),
    (r'\.bn\.', '.norm.'),
)
_MOST_BLOCKS = 8  # of a stage, in key maps


def _openmmlab_places() -> Iterator[tuple[str, str]]:
    """OpenMMLab counts attention and MLP one by one, and the block that halves the map first."""
    for stage in range(3):
        at, first = rf'^stages\.{stage}\.', 2 if stage else 0
        if stage:
            yield rf'{at}0\.', f'stages.{stage}.downsample.attn.'
            yield rf'{at}1\.block\.', f'stages.{stage}.downsample.mlp.'
        for i in range(_MOST_BLOCKS):
            yield rf'{at}{first + 2 * i}\.block\.', f'stages.{stage}.blocks.{i}.attn.'
            yield rf'{at}{first + 2 * i + 1}\.block\.', f'stages.{stage}.blocks.{i}.mlp.'


_OPENMMLAB_KEYS = (
    *((rf'^patch_embed\.patch_embed\.{2 * i}\.', f'stem.{i}.') for i in range(4)),
    *_openmmlab_places(),
    (r'\.(proj|q)\.1\.', r'.\1.'),
    (r'\.mlp\.linear([12])\.', r'.mlp.fc\1.'),
    (r'\.attention_biases$', '.bias.table'),
    (r'\.bn\.', '.norm.'),
)


def _transformers_keys(depths: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Transformers halve the map at the end of a stage, whose place depends on its depth."""
    yield r'^levit\.', ''
    for i in range(4):
        yield rf'^patch_embeddings\.embedding_layer_{i + 1}\.convolution\.', f'stem.{i}.conv.'
        yield rf'^patch_embeddings\.embedding_layer_{i + 1}\.batch_norm\.', f'stem.{i}.norm.'
    for stage, depth in enumerate(depths):
        at = rf'^encoder\.stages\.{stage}\.layers\.'
        for i in range(depth):
            yield rf'{at}{2 * i}\.module\.', f'stages.{stage}.blocks.{i}.attn.'
            yield rf'{at}{2 * i + 1}\.module\.', f'stages.{stage}.blocks.{i}.mlp.'
        yield rf'{at}{2 * depth}\.', f'stages.{stage + 1}.downsample.attn.'
        yield rf'{at}{2 * depth + 1}\.module\.', f'stages.{stage + 1}.downsample.mlp.'
    yield r'\.queries_keys_values\.', '.qkv.'
    yield r'\.keys_values\.', '.kv.'
    yield r'\.queries\.', '.q.'
    yield r'\.projection\.', '.proj.'
    yield r'\.linear_up\.', '.fc1.'
    yield r'\.linear_down\.', '.fc2.'
    yield r'\.attention_biases$', '.bias.table'
    yield r'^classifier\.linear\.', '../head.fc.'
    yield r'^classifier_distill\.linear\.', '../head.fc_distill.'
    yield r'^classifier\.batch_norm\.', '../head.norm.'
    yield r'^classifier_distill\.batch_norm\.', '../head.norm_distill.'
    yield r'\.batch_norm\.', '.norm.'


_COMPUTED = ((r'attention_bias_idxs$', 'computed from the size of the map'),)


@MODELS.register_module()
class LeViT(nn.Module):
    """LeViT-128S, -128, -192, -256 and -384, or any other size.

    Args:
        size: ``'128s'``, ``'128'``, ``'192'``, ``'256'`` or ``'384'``: sets the next four where
            left out.
        channels: channels of each stage.
        key_dim: size of a query and of a key.
        num_heads: heads of each stage.
        num_blocks: blocks of each stage, besides those that halve the map.
        image_size: (height, width), or one number for both, that biases are learned for. Images
            of other sizes work as well: biases are then interpolated.
        in_channels: channels of the input.
        drop_path: probability to leave out each branch in training.
        act: see ``make_act``; by default the hard swish.
        out_stages: stages whose maps come out, rising, from 4 (stride 16) to 6 (stride 64). Sizes
            of maps are rounded up.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, _COMPUTED,
               transforms=((r'^stages\..*\.linear\.weight$', _as_linear),),
               signature=(r'^stem\.conv1\.linear\.', r'\.attn\.attention_biases$')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, _COMPUTED,
               signature=(r'^patch_embed\.patch_embed\.0\.conv\.',
                          r'^stages\.0\.0\.block\.attention_biases$')),
        *(KeyMap('transformers', tuple(_transformers_keys(depths)), _COMPUTED,
                 signature=(rf'encoder\.stages\.0\.layers\.{2 * depths[0]}\.keys_values\.',))
          for depths in ((2, 3, 4), (4, 4, 4))),
    )

    def __init__(
        self,
        size: Literal['128s', '128', '192', '256', '384'] = '256',
        channels: Sequence[int] | None = None,
        key_dim: int | None = None,
        num_heads: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        drop_path: float = 0.0,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (6,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'LeViT has sizes {list(_SIZES)}, not {size!r}; for another one give '
                             'channels, key_dim, num_heads and num_blocks')
        dims, heads = channels or _SIZES[size][0], num_heads or _SIZES[size][2]
        key_dim, depths = key_dim or _SIZES[size][1], num_blocks or _SIZES[size][3]
        if not len(dims) == len(heads) == len(depths) == 3:
            raise ValueError(f'each of the 3 stages needs an entry in channels={tuple(dims)}, '
                             f'num_heads={tuple(heads)} and num_blocks={tuple(depths)}')
        if dims[0] % 8:
            raise ValueError(f'channels[0]={dims[0]} must be a multiple of 8: the stem begins with '
                             'an eighth of them')
        self.out_stages = check_out_stages(out_stages, first=4, last=6)
        act = act or {'type': nn.Hardswish}
        widths = (in_channels, *(dims[0] // 2**i for i in (3, 2, 1, 0)))
        self.stem = nn.Sequential(*(
            ConvNormAct(widths[i], widths[i + 1], 3, 2, act=act, with_act=i < 3)
            for i in range(4)))
        grid = _grid(image_size)
        self.stages = nn.ModuleList()
        for i in range(self.out_stages[-1] - 3):
            downsample: nn.Module = nn.Identity()
            if i:
                attn = LeViTAttention(dims[i - 1], dims[i], key_dim, dims[i - 1] // key_dim, 4,
                                      grid, 2, act)
                downsample = LeViTBlock(attn, LeViTMLP(dims[i], 2 * dims[i], act), False, drop_path)
                grid = (-(-grid[0] // 2), -(-grid[1] // 2))
            self.stages.append(LeViTStage(downsample, [
                LeViTBlock(LeViTAttention(dims[i], dims[i], key_dim, heads[i], 2, grid, 1, act),
                           LeViTMLP(dims[i], 2 * dims[i], act), True, drop_path)
                for _ in range(depths[i])]))
        self.out_channels = tuple(dims[s - 4] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        init_transformer(self)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name.endswith('.bias.table')}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x).permute(0, 2, 3, 1)
        outs = []
        for stage, blocks in enumerate(self.stages, start=4):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)


def _grid(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Size of the stem's map for images of a size; its convolutions round up."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return -(-height // _STEM_STRIDE), -(-width // _STEM_STRIDE)
