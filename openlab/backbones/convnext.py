"""ConvNeXt: a residual network with the sizes, norms and activations of a transformer.

* Liu et al., A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545
* Woo et al., ConvNeXt V2 (``version=2``), https://arxiv.org/abs/2301.00808: global response
  normalisation in each block in the place of layer scale

Stages are counted by their stride, from 2 (stride 4) to 5 (stride 32).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.norm import LayerNorm2d
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

_SIZES: dict[str, tuple[int, tuple[int, ...]]] = {  # channels of the first stage, blocks of each
    'atto': (40, (2, 2, 6, 2)),
    'femto': (48, (2, 2, 6, 2)),
    'pico': (64, (2, 2, 6, 2)),
    'nano': (80, (2, 2, 8, 2)),
    'tiny': (96, (3, 3, 9, 3)),
    'small': (96, (3, 3, 27, 3)),
    'base': (128, (3, 3, 27, 3)),
    'large': (192, (3, 3, 27, 3)),
    'xlarge': (256, (3, 3, 27, 3)),
    'huge': (352, (3, 3, 27, 3)),
    'xxlarge': (384, (3, 4, 30, 3)),
}
_EPS = 1e-6


class GlobalResponseNorm(nn.Module):
    """Scale each channel by its energy in the whole map over the mean energy of all channels.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C), channels last, to the same shape."""
        energy = x.norm(p=2, dim=(1, 2), keepdim=True)
        relative = energy / (energy.mean(-1, keepdim=True) + _EPS)
        return (x + self.bias).addcmul_(self.weight, x * relative)


class ConvNeXtBlock(nn.Module):
    """A 7x7 filter of each channel, layer norm, and an MLP of four times the width.

    Args:
        channels: channels of input and output.
        layer_scale: first value of a learned scale of the branch; ``None`` does without.
        with_grn: global response normalisation inside the MLP.
        drop_path: probability to leave the block out in training.
        norm_eps: added to the variance in norms.
    """

    def __init__(self, channels: int, layer_scale: float | None = 1e-6, with_grn: bool = False,
                 drop_path: float = 0.0, norm_eps: float = _EPS):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=norm_eps)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(4 * channels) if with_grn else nn.Identity()
        self.fc2 = nn.Linear(4 * channels, channels)
        self.gamma: nn.Parameter | None = None
        if layer_scale:
            self.gamma = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.fc2(self.grn(self.act(self.fc1(y))))
        if self.gamma is not None:
            y = y * self.gamma
        return x + self.drop_path(y.permute(0, 3, 1, 2))


_TIMM_KEYS = (
    (r'^stem\.', 'downsamples.0.'),
    (r'^stages\.(\d)\.downsample\.', r'downsamples.\1.'),
    (r'^(stages\.\d)\.blocks\.', r'\1.'),
    (r'\.conv_dw\.', '.depthwise.'),
    (r'\.mlp\.', '.'),
    (r'^head\.norm\.', 'norms.5.'),
    (r'^head\.pre_logits\.fc\.', '../head.hidden.0.'),
    (r'^head\.fc\.', '../head.fc.'),
)
_TORCHVISION_KEYS = (
    (r'\.block\.0\.', '.depthwise.'),
    (r'\.block\.2\.', '.norm.'),
    (r'\.block\.3\.', '.fc1.'),
    (r'\.block\.5\.', '.fc2.'),
    (r'\.layer_scale$', '.gamma'),
    *((rf'^features\.{2 * i}\.', f'downsamples.{i}.') for i in range(4)),
    *((rf'^features\.{2 * i + 1}\.', f'stages.{i}.') for i in range(4)),
    (r'^classifier\.0\.', 'norms.5.'),
    (r'^classifier\.2\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'^downsample_layers\.', 'downsamples.'),
    (r'\.depthwise_conv\.', '.depthwise.'),
    (r'\.pointwise_conv1\.', '.fc1.'),
    (r'\.pointwise_conv2\.', '.fc2.'),
    (r'\.grn\.gamma$', '.grn.weight'),
    (r'\.grn\.beta$', '.grn.bias'),
    *((rf'^norm{i}\.', f'norms.{i + 2}.') for i in range(4)),
)
_TRANSFORMERS_KEYS = (
    (r'^convnext(?:v2)?\.', ''),
    (r'^embeddings\.patch_embeddings\.', 'downsamples.0.0.'),
    (r'^embeddings\.layernorm\.', 'downsamples.0.1.'),
    (r'^encoder\.stages\.(\d)\.downsampling_layer\.', r'downsamples.\1.'),
    (r'^encoder\.stages\.(\d)\.layers\.', r'stages.\1.'),
    (r'\.dwconv\.', '.depthwise.'),
    (r'\.layernorm\.', '.norm.'),
    (r'\.pwconv([12])\.', r'.fc\1.'),
    (r'\.layer_scale_parameter$', '.gamma'),
    (r'^layernorm\.', 'norms.5.'),
    *((rf'^hidden_states_norms\.stage{i}\.', f'norms.{i + 1}.') for i in range(1, 5)),
    (r'^classifier\.', '../head.fc.'),
)
# Some sources hold 1x1 convolutions for the MLP, or scales with trailing ones.
_FLATTEN = (
    (r'\.fc[12]\.weight$', lambda tensor: tensor.flatten(1)),
    (r'\.(gamma|grn\.weight|grn\.bias)$', lambda tensor: tensor.flatten()),
)


@MODELS.register_module()
class ConvNeXt(nn.Module):
    """ConvNeXt, version 1 or 2, of any published size.

    Args:
        size: ``'atto'``, ``'femto'``, ``'pico'``, ``'nano'``, ``'tiny'``, ``'small'``,
            ``'base'``, ``'large'``, ``'xlarge'``, ``'huge'`` or ``'xxlarge'`` (of OpenCLIP): sets
            the next two.
        base_channels: channels of the first stage; each further stage doubles them.
        num_blocks: blocks of each stage.
        version: 2 has global response normalisation and no layer scale.
        in_channels: channels of the input.
        layer_scale: first value of the learned scales of version 1.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        norm_eps: added to the variance in norms, against division by zero.
        output: ``'mean'`` is one vector (B, C), the last map averaged, then normalised, for a
            classifier; ``'maps'`` are the normalised maps of ``out_stages``.
        out_stages: stages whose maps come out, rising, from 2 (stride 4) to 5 (stride 32), where
            ``output='maps'``; by default the last.

    Attributes:
        out_channels: channels of each output.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _TORCHVISION_KEYS, transforms=_FLATTEN,
               signature=(r'^features\.1\.0\.layer_scale$',)),
        KeyMap('timm', _TIMM_KEYS, transforms=_FLATTEN,
               signature=(r'^stages\.0\.blocks\.0\.conv_dw\.', r'^stages\.1\.downsample\.0\.')),
        KeyMap('openmmlab', _OPENMMLAB_KEYS, transforms=_FLATTEN,
               signature=(r'^downsample_layers\.0\.0\.', r'\.pointwise_conv1\.')),
        KeyMap('transformers', _TRANSFORMERS_KEYS, transforms=_FLATTEN,
               signature=(r'embeddings\.patch_embeddings\.', r'\.layers\.0\.dwconv\.')),
    )

    def __init__(
        self,
        size: str = 'tiny',
        base_channels: int | None = None,
        num_blocks: Sequence[int] | None = None,
        version: Literal[1, 2] = 1,
        in_channels: int = 3,
        layer_scale: float | None = 1e-6,
        drop_path: float = 0.0,
        norm_eps: float = _EPS,
        output: Literal['mean', 'maps'] = 'mean',
        out_stages: Sequence[int] | None = None,
    ):
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f'ConvNeXt has sizes {list(_SIZES)}, not {size!r}; for another one '
                             'give base_channels and num_blocks')
        if output not in ('mean', 'maps'):
            raise ValueError(f"output is 'mean' or 'maps', not {output!r}")
        if output == 'mean' and out_stages is not None:
            raise ValueError("out_stages needs output='maps', not 'mean'")
        num_blocks = tuple(num_blocks or _SIZES[size][1])
        base_channels = base_channels or _SIZES[size][0]
        self.output = output
        self.out_stages = check_out_stages(
            out_stages or (len(num_blocks) + 1,), first=2, last=len(num_blocks) + 1)
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        channels = in_channels
        for i, num in enumerate(num_blocks[: self.out_stages[-1] - 1]):
            out = base_channels * 2**i
            if i == 0:
                self.downsamples.append(nn.Sequential(
                    nn.Conv2d(channels, out, 4, 4), LayerNorm2d(out, eps=norm_eps)))
            else:
                self.downsamples.append(nn.Sequential(
                    LayerNorm2d(channels, eps=norm_eps), nn.Conv2d(channels, out, 2, 2)))
            self.stages.append(nn.Sequential(*(
                ConvNeXtBlock(out, layer_scale if version == 1 else None, version == 2,
                              next(probs), norm_eps) for _ in range(num))))
            channels = out
        self.out_channels = tuple(base_channels * 2**(s - 2) for s in self.out_stages)
        self.strides = tuple(2**s for s in self.out_stages)
        norm = nn.LayerNorm if output == 'mean' else LayerNorm2d
        self.norms = nn.ModuleDict({
            str(s): norm(c, eps=norm_eps) for s, c in zip(self.out_stages, self.out_channels)})
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """A vector (B, C) or maps (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        maps = {}
        for stage, (downsample, blocks) in enumerate(zip(self.downsamples, self.stages), start=2):
            x = maps[stage] = blocks(downsample(x))
        if self.output == 'mean':
            maps[self.out_stages[0]] = x.mean((2, 3))
        return tuple(self.norms[str(s)](maps[s]) for s in self.out_stages)
