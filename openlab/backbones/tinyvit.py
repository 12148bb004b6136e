"""TinyViT: a small pyramid, half convolutions and half windows, taught by large networks.

Wu et al., TinyViT: Fast Pretraining Distillation for Small Vision Transformers,
https://arxiv.org/abs/2207.10666

Stage 2 consists of inverted bottlenecks; the others attend within windows, with a depthwise
convolution between attention and MLP that lets windows exchange what they know. Stages are counted
by their stride, from 2 (stride 4) to 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.conv import ConvNormAct
from openlab.layers.distance_bias import DistanceAttention
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer, zero_scale
from openlab.layers.mbconv import MBConv
from openlab.layers.transformer import MLP
from openlab.layers.window import merge_windows, pad_to_windows, partition_windows
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    # channels and heads of each stage; the first has no attention
    '5m': ((64, 128, 160, 320), (2, 4, 5, 10)),
    '11m': ((64, 128, 256, 448), (2, 4, 8, 14)),
    '21m': ((96, 192, 384, 576), (3, 6, 12, 18)),
}
_GELU = {'type': nn.GELU}


class TinyViTBlock(nn.Module):
    """Windowed attention, a depthwise convolution, an MLP.

    Args:
        channels: channels of input and output (C).
        num_heads: heads of the attention.
        window_size: side of the windows.
        mlp_ratio: hidden size of the MLP over ``channels``.
        drop_path: probability to leave out attention and MLP in training, each.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, mlp_ratio: float = 4.0,
                 drop_path: float = 0.0):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f'{channels} channels cannot be split over num_heads={num_heads}')
        self.window = (window_size, window_size)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = DistanceAttention(channels, channels // num_heads, num_heads, 1, self.window)
        self.conv = ConvNormAct(channels, channels, 3, groups=channels, with_act=False)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        H, W = x.shape[2:]
        padded = pad_to_windows(x.permute(0, 2, 3, 1), self.window)
        shape = (padded.shape[1], padded.shape[2])
        # The norm comes after the padding: the zeros become its bias, and windows see them so.
        windows = self.attn(self.norm1(partition_windows(padded, self.window)), self.window)
        y = merge_windows(windows, self.window, shape)[:, :H, :W].permute(0, 3, 1, 2)
        x = self.conv(x + self.drop_path(y))
        y = self.mlp(self.norm2(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x + self.drop_path(y)


class TinyViTStage(nn.Module):
    """A strided inverted bottleneck (not in the first stage) and blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / 2, W / 2), or in the first stage to the same shape."""
        return self.blocks(self.downsample(x))


_BLOCK_KEYS = (
    *((rf'^(stages\.0\.blocks\.\d+)\.conv{i}\.', rf'\1.0.{name}.')
      for i, name in enumerate(('expand', 'depthwise', 'project'), start=1)),
    *((rf'\.downsample\.conv{i}\.', f'.downsample.{name}.')
      for i, name in enumerate(('expand', 'depthwise', 'project'), start=1)),
    (r'\.local_conv\.', '.conv.'),
    (r'\.attn\.norm\.', '.norm1.'),
    (r'\.mlp\.norm\.', '.norm2.'),
    (r'\.attention_biases$', '.bias.table'),
)
_TIMM_KEYS = (
    *_BLOCK_KEYS,
    (r'^patch_embed\.conv1\.', 'stem.0.'),
    (r'^patch_embed\.conv2\.', 'stem.1.'),
    (r'\.bn\.', '.norm.'),
    (r'^head\.norm\.', 'norms.5.'),
    (r'^head\.fc\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    # OpenMMLab shrinks the map at the end of a stage.
    *((rf'^stages\.{i}\.downsample\.', f'stages.{i + 1}.downsample.') for i in (2, 1, 0)),
    *_BLOCK_KEYS,
    (r'^patch_embed\.seq\.0\.', 'stem.0.'),
    (r'^patch_embed\.seq\.2\.', 'stem.1.'),
    (r'\.conv2d\.', '.conv.'),
    (r'\.bn2d\.', '.norm.'),
    *((rf'^norm{i}\.', f'norms.{i + 2}.') for i in range(4)),
)
_COMPUTED = ((r'attention_bias_idxs$', 'computed from the size of the window'),)


@MODELS.register_module()
class TinyViT(nn.Module):
    """TinyViT-5M, -11M and -21M, or any other size.

    Args:
        size: ``'5m'``, ``'11m'`` or ``'21m'``: sets ``channels`` and ``num_heads`` where left out.
        window_size: side of the windows of stages 3 and 5; those of stage 4 are twice as wide.
            Published weights have 7 (224 px), 12 (384 px) or 16 (512 px). Images of other sizes
            are padded to whole windows.
        channels: channels of each stage.
        num_blocks: blocks of each stage.
        num_heads: heads of each stage; the first number is not used.
        in_channels: channels of the input.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        output: ``'mean'`` is one vector (B, C), the last map averaged and then normalised, as
            published classifiers have it; ``'maps'`` are the normalised maps of ``out_stages``.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each output map.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS, _COMPUTED,
               signature=(r'^patch_embed\.conv1\.conv\.', r'^stages\.0\.blocks\.0\.conv3\.bn\.')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, _COMPUTED,
               signature=(r'^patch_embed\.seq\.0\.conv2d\.',
                          r'^stages\.0\.blocks\.0\.conv3\.bn2d\.')),
    )

    def __init__(
        self,
        size: Literal['5m', '11m', '21m'] = '5m',
        window_size: int = 7,
        channels: Sequence[int] | None = None,
        num_blocks: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] | None = None,
        in_channels: int = 3,
        drop_path: float = 0.0,
        output: Literal['mean', 'maps'] = 'maps',
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'TinyViT has sizes {list(_SIZES)}, not {size!r}; for another one '
                             'give channels and num_heads')
        if output not in ('mean', 'maps'):
            raise ValueError(f"output is 'mean' or 'maps', not {output!r}")
        widths, heads = tuple(channels or _SIZES[size][0]), tuple(num_heads or _SIZES[size][1])
        if not len(widths) == len(heads) == len(num_blocks) == 4:
            raise ValueError(f'each of the 4 stages needs an entry in channels={widths}, num_heads='
                             f'{heads} and num_blocks={tuple(num_blocks)}')
        self.output = output
        self.out_stages = check_out_stages(out_stages, first=2, last=5)
        if output == 'mean' and len(self.out_stages) > 1:
            raise ValueError(f"output='mean' gives one stage, not {self.out_stages}")
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, widths[0] // 2, 3, 2, act=_GELU),
            ConvNormAct(widths[0] // 2, widths[0], 3, 2, with_act=False))
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        for i in range(self.out_stages[-1] - 1):
            window = window_size * (2 if i == 2 else 1)
            blocks: list[nn.Module] = []
            for _ in range(num_blocks[i]):
                prob = next(probs)
                blocks.append(TinyViTBlock(widths[i], heads[i], window, drop_path=prob) if i
                              else _conv_block(widths[0], prob))
            downsample = (MBConv(widths[i - 1], widths[i], widths[i], stride=2, act=_GELU) if i
                          else nn.Identity())
            self.stages.append(TinyViTStage(downsample, blocks))
        self.out_channels = tuple(widths[s - 2] for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        self.norms = nn.ModuleDict({
            str(s): nn.LayerNorm(c) for s, c in zip(self.out_stages, self.out_channels)})
        init_transformer(self)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name.endswith('.bias.table')}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C, H / stride, W / stride) or a vector (B, C), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                norm = self.norms[str(stage)]
                outs.append(norm(x.mean((2, 3))) if self.output == 'mean'
                            else norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)


def _conv_block(channels: int, drop_path: float) -> nn.Module:
    """An inverted bottleneck, at first the identity, with an activation behind its residual."""
    bottleneck = MBConv(channels, channels, 4 * channels, drop_path=drop_path, act=_GELU)
    assert isinstance(bottleneck.project, ConvNormAct)
    zero_scale(bottleneck.project.norm)
    return nn.Sequential(bottleneck, nn.GELU())
