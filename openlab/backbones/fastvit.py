"""FastViT: convolutions that fold into few, and attention at the end of the larger sizes.

* Vasu et al., FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization,
  https://arxiv.org/abs/2303.14189
* Vasu et al., MobileCLIP: Fast Image-Text Models through Multi-Modal Reinforced Training,
  https://arxiv.org/abs/2311.17049, and MobileCLIP2, https://arxiv.org/abs/2508.20691: the image
  towers, whose patches have an activation and, in the later stages, squeeze and excitation

Idea: places are mixed by a depthwise convolution whose residual, norm and parallel branches all
fold into the one convolution once training is done (``deploy()``); so do the branches of the stem
and of the patches between stages. Stages are counted by their stride, from 2 (stride 4) to 5
(stride 32), in MobileCLIP2 to 6.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.attention import Attention
from openlab.layers.conv import ConvNormAct, fold_norm
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_transformer
from openlab.layers.norm import LayerNorm2d
from openlab.layers.reparam import RepConv, conv_of, identity_kernel
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


class _Size(NamedTuple):
    """A published size."""

    channels: tuple[int, ...]
    num_blocks: tuple[int, ...]
    mlp_ratio: float
    with_attention: bool = False
    patch_act: bool = False  # an activation between the two convolutions of patches
    patch_se_from: int = 7  # stage from which on their first convolution squeezes and excites
    stem_scale: bool = True  # a 1x1 branch beside each 3x3 convolution of the stem
    attention_norm: type[nn.Module] = nn.BatchNorm2d


_SIZES = {
    # FastViT, table 2
    't8': _Size((48, 96, 192, 384), (2, 2, 4, 2), 3),
    't12': _Size((64, 128, 256, 512), (2, 2, 6, 2), 3),
    's12': _Size((64, 128, 256, 512), (2, 2, 6, 2), 4),
    'sa12': _Size((64, 128, 256, 512), (2, 2, 6, 2), 4, True),
    'sa24': _Size((64, 128, 256, 512), (4, 4, 12, 4), 4, True),
    'sa36': _Size((64, 128, 256, 512), (6, 6, 18, 6), 4, True),
    'ma36': _Size((76, 152, 304, 608), (6, 6, 18, 6), 4, True),
    # MobileCLIP S0 to S2
    'mci0': _Size((64, 128, 256, 512), (2, 6, 10, 2), 3, True, True, 4),
    'mci1': _Size((64, 128, 256, 512), (4, 12, 20, 4), 3, True, True, 4),
    'mci2': _Size((80, 160, 320, 640), (4, 12, 24, 4), 3, True, True, 4),
    # MobileCLIP2 S3 and S4
    'mci3': _Size((96, 192, 384, 768, 1536), (2, 12, 24, 4, 2), 4, True, True,
                  stem_scale=False, attention_norm=LayerNorm2d),
    'mci4': _Size((128, 256, 512, 1024, 2048), (2, 12, 24, 4, 4), 4, True, True,
                  stem_scale=False, attention_norm=LayerNorm2d),
}
_HEAD_DIM = 32
_GELU = {'type': nn.GELU}


class RepMixer(nn.Module):
    """Mix places by a depthwise convolution; all of it, the residual too, folds into one.

    Args:
        channels: channels of input and output (C).
        layer_scale: first value of the learned scale.
        deployed: build the one convolution.
    """

    def __init__(self, channels: int, layer_scale: float, deployed: bool = False):
        super().__init__()
        self.fused: nn.Conv2d | None = None
        self.conv: RepConv | None = None
        self.norm: nn.BatchNorm2d | None = None
        self.scale: nn.Parameter | None = None
        if deployed:
            self.fused = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        else:
            self.conv = RepConv(channels, channels, (3, 1), groups=channels)
            self.norm = nn.BatchNorm2d(channels)
            self.scale = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if self.fused is not None:
            return self.fused(x)
        assert self.conv is not None and self.norm is not None and self.scale is not None
        return x + self.scale[:, None, None] * (self.conv(x) - self.norm(x))

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold everything, with the statistics that the norms have now, into one convolution."""
        if self.conv is None or self.norm is None or self.scale is None:
            return
        weight, bias = self.conv.folded()
        eye = identity_kernel(weight)
        weight0, bias0 = fold_norm(eye, self.norm)
        weight = eye + self.scale[:, None, None, None] * (weight - weight0)
        self.fused = conv_of(weight, self.scale * (bias - bias0), groups=len(weight))
        self.conv, self.norm, self.scale = None, None, None


class PositionConv(nn.Module):
    """A large depthwise convolution that tells places apart, added to the map.

    Args:
        channels: channels of input and output (C).
        deployed: build the convolution that has taken in the residual.
    """

    def __init__(self, channels: int, deployed: bool = False):
        super().__init__()
        conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.conv = None if deployed else conv
        self.fused = conv if deployed else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if self.fused is not None:
            return self.fused(x)
        assert self.conv is not None
        return x + self.conv(x)

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold the residual into the convolution."""
        if self.conv is not None:
            weight, bias = self.conv.weight, self.conv.bias
            assert bias is not None
            self.fused = conv_of(weight + identity_kernel(weight), bias, groups=len(weight))
            self.conv = None


class FastViTMLP(nn.Module):
    """A large depthwise convolution, then two 1x1 convolutions.

    Args:
        channels: channels of input and output (C).
        hidden_dim: channels between the 1x1 convolutions.
    """

    def __init__(self, channels: int, hidden_dim: int):
        super().__init__()
        self.conv = ConvNormAct(channels, channels, 7, groups=channels, with_act=False)
        self.fc1 = nn.Conv2d(channels, hidden_dim, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_dim, channels, 1)
        for conv in (self.conv.conv, self.fc1, self.fc2):
            nn.init.trunc_normal_(conv.weight, std=0.02)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.fc2(self.act(self.fc1(self.conv(x))))


class FastViTBlock(nn.Module):
    """A mixer of places, or attention, then an MLP that is scaled and has a residual around it.

    Args:
        channels: channels of input and output (C).
        mlp_ratio: hidden channels of the MLP over ``channels``.
        attention_norm: mix places by attention, behind this norm and scaled; ``None`` mixes them
            by ``RepMixer``.
        layer_scale: first value of the learned scales.
        drop_path: probability to leave out attention and MLP in training, each.
        deployed: build the folded mixer.
    """

    def __init__(self, channels: int, mlp_ratio: float, attention_norm: type[nn.Module] | None,
                 layer_scale: float, drop_path: float = 0.0, deployed: bool = False):
        super().__init__()
        self.mixer: RepMixer | None = None
        if attention_norm is not None:
            self.norm = attention_norm(channels)
            self.attn = Attention(channels, channels // _HEAD_DIM, qkv_bias=False)
            self.scale1 = nn.Parameter(torch.full((channels,), layer_scale))
        else:
            self.mixer = RepMixer(channels, layer_scale, deployed)
        self.mlp = FastViTMLP(channels, int(channels * mlp_ratio))
        self.scale2 = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if self.mixer is not None:
            x = self.mixer(x)
        else:
            tokens = self.attn(self.norm(x).flatten(2).transpose(1, 2))
            y = (self.scale1 * tokens).transpose(1, 2).unflatten(2, x.shape[2:])
            x = x + self.drop_path(y)
        return x + self.drop_path(self.scale2[:, None, None] * self.mlp(x))


class FastViTStage(nn.Module):
    """Overlapping patches (not in the first stage), positions where blocks attend, and blocks."""

    def __init__(self, downsample: nn.Module, position: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.position = position
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / 2, W / 2), or in the first stage to the same shape."""
        return self.blocks(self.position(self.downsample(x)))


_TIMM_KEYS = (
    (r'\.token_mixer\.norm\.identity\.', '.mixer.norm.'),
    (r'\.token_mixer\.mixer\.', '.mixer.conv.'),
    (r'\.token_mixer\.layer_scale\.gamma$', '.mixer.scale'),
    (r'\.token_mixer\.(qkv|proj)\.', r'.attn.\1.'),
    (r'\.token_mixer\.', '.mixer.'),
    (r'\.(?:conv_kxk\.0|large_conv)\.', '.branches.0.'),
    (r'\.(?:conv_scale|small_conv)\.', '.branches.1.'),
    (r'\.reparam_conv\.', '.fused.'),
    (r'\.bn\.', '.norm.'),
    (r'\.layer_scale_1\.gamma$', '.scale1'),
    (r'\.layer_scale(?:_2)?\.gamma$', '.scale2'),
    (r'\.downsample\.proj\.', '.downsample.'),
    (r'\.pos_emb\.pos_enc\.', '.position.conv.'),
    (r'\.pos_emb\.', '.position.'),
    (r'\.se\.fc1\.', '.se.reduce.'),
    (r'\.se\.fc2\.', '.se.expand.'),
    (r'^head\.fc\.', '../head.fc.'),
)


@MODELS.register_module()
class FastViT(nn.Module):
    """FastViT-T8, -T12, -S12, -SA12, -SA24, -SA36 and -MA36, MCi0 to MCi4, or any other size.

    Args:
        size: ``'t8'``, ``'t12'``, ``'s12'``, ``'sa12'``, ``'sa24'``, ``'sa36'``, ``'ma36'``, or
            one of MobileCLIP, ``'mci0'`` to ``'mci4'``: sets the next four where left out, and how
            stem and patches are built.
        channels: channels of each stage, four or five.
        num_blocks: blocks of each stage.
        mlp_ratio: hidden channels of the MLPs over those of their stage.
        with_attention: attend from stage 5 on.
        in_channels: channels of the input.
        layer_scale: first value of the learned scales of the branches.
        drop_path: probability to drop the last block's branches in training; it rises linearly
            from 0.
        output: ``'maps'`` are the maps of ``out_stages``; ``'expanded'`` is the last map after one
            more convolution, which doubles the channels, as published classifiers have it.
        deployed: build the folded form, for folded weights.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32) or,
            where there are five, 6 (stride 64); by default the last. Sizes of maps are rounded up.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('timm', _TIMM_KEYS,
               transforms=((r'\.scale\d?$', lambda tensor: tensor.flatten()),),
               signature=(r'^stem\.0\.(conv_kxk\.0|reparam_conv)\.', r'\.token_mixer\.')),
    )

    def __init__(
        self,
        size: Literal['t8', 't12', 's12', 'sa12', 'sa24', 'sa36', 'ma36', 'mci0', 'mci1', 'mci2',
                      'mci3', 'mci4'] = 't8',
        channels: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
        mlp_ratio: float | None = None,
        with_attention: bool | None = None,
        in_channels: int = 3,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
        output: Literal['maps', 'expanded'] = 'maps',
        deployed: bool = False,
        out_stages: Sequence[int] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'FastViT has sizes {list(_SIZES)}, not {size!r}; for another one '
                             'give channels, num_blocks, mlp_ratio and with_attention')
        if output not in ('maps', 'expanded'):
            raise ValueError(f"output is 'maps' or 'expanded', not {output!r}")
        table = _SIZES[size]
        widths, depths = tuple(channels or table.channels), tuple(num_blocks or table.num_blocks)
        mlp_ratio = mlp_ratio or table.mlp_ratio
        if with_attention is None:
            with_attention = table.with_attention
        if len(widths) != len(depths) or len(widths) not in (4, 5):
            raise ValueError(f'each of the 4 stages (or 5) needs an entry in channels={widths} and '
                             f'num_blocks={depths}')
        if any(wide % narrow for narrow, wide in pairwise(widths)):
            raise ValueError(f'channels={widths} must each be a multiple of those before: patches '
                             'are cut channel by channel')
        if with_attention and any(width % _HEAD_DIM for width in widths[3:]):
            raise ValueError(f'channels={widths} must be multiples of {_HEAD_DIM} from stage 5 on, '
                             'the size of a head of the attention')
        last_stage = len(widths) + 1
        self.out_stages = check_out_stages(out_stages or (last_stage,), first=2, last=last_stage)
        if output == 'expanded' and self.out_stages != (last_stage,):
            raise ValueError(f"output='expanded' gives stage {last_stage} only, not "
                             f'{self.out_stages}')
        first, sides = widths[0], (3, 1) if table.stem_scale else (3,)
        self.stem = nn.Sequential(
            RepConv(in_channels, first, sides, 2, act=_GELU, deployed=deployed),
            RepConv(first, first, sides, 2, groups=first, act=_GELU, deployed=deployed),
            RepConv(first, first, (1,), act=_GELU, deployed=deployed))
        probs = iter(drop_path_probs(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        for stage in range(2, self.out_stages[-1] + 1):
            i, attends = stage - 2, with_attention and stage >= 5
            se_hidden = widths[i] // 4 if stage >= table.patch_se_from else 0
            self.stages.append(FastViTStage(
                _patches(widths[i - 1], widths[i], se_hidden, _GELU if table.patch_act else None,
                         deployed) if i else nn.Identity(),
                PositionConv(widths[i], deployed) if attends else nn.Identity(),
                [FastViTBlock(widths[i], mlp_ratio, table.attention_norm if attends else None,
                              layer_scale, next(probs), deployed) for _ in range(depths[i])]))
        self.final_conv: nn.Module | None = None
        self.out_channels = tuple(widths[s - 2] for s in self.out_stages)
        if output == 'expanded':
            last, wide = widths[-1], 2 * widths[-1]
            self.final_conv = RepConv(last, wide, (3, 1), groups=last, se_hidden=max(wide // 16, 1),
                                      act=_GELU, deployed=deployed)
            self.out_channels = (wide,)
        self.strides = tuple(2**s for s in self.out_stages)
        init_transformer(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        x = self.stem(x)
        outs = []
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs) if self.final_conv is None else (self.final_conv(x),)

    def deploy(self) -> None:
        """Fold what can be folded, in place; outputs in evaluation stay the same."""
        for part in list(self.modules()):
            if isinstance(part, (RepMixer, PositionConv)):
                part.deploy()
        for part in list(self.modules()):
            if isinstance(part, RepConv):
                part.deploy()


def _patches(in_channels: int, out_channels: int, se_hidden: int, act: dict[str, Any] | None,
             deployed: bool) -> nn.Module:
    """Overlapping patches of 7 x 7, each channel by itself, then all channels together."""
    return nn.Sequential(
        RepConv(in_channels, out_channels, (7, 3), 2, in_channels, False, se_hidden, act, deployed),
        RepConv(out_channels, out_channels, (1,), act=_GELU, deployed=deployed))
