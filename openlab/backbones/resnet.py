"""ResNet and its relatives.

* He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
* ResNeXt (``groups``, ``width_per_group``): https://arxiv.org/abs/1611.05431
* ResNet-C, -D (``stem='deep'``, ``avg_down=True``): https://arxiv.org/abs/1812.01187
* SE-ResNet (``se_reduction=16``): https://arxiv.org/abs/1709.01507
* Dilated ResNet (``output_stride=8`` or ``16``): https://arxiv.org/abs/1706.05587

A stem, then four stages of residual blocks, each stage at half the resolution of the one before.
Stages are counted as the paper counts them: the stem is stage 1, the first residual stage is 2
(stride 4) and the last is 5 (stride 32). As everywhere since, a bottleneck strides in its 3x3
convolution (v1b); the paper's (v1) strides in its first one (``stride_in_conv1=True``).

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from openlab.backbones.stages import check_out_stages
from openlab.layers.act import make_act
from openlab.layers.conv import ConvNormAct
from openlab.layers.drop import DropPath, drop_path_probs
from openlab.layers.init import init_conv_net, zero_scale
from openlab.layers.norm import make_norm
from openlab.layers.se import SqueezeExcite
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added.

    Args:
        in_channels: channels of the input map.
        width: channels of both convolutions.
        stride: step of the first convolution.
        dilation: dilation of the second convolution.
        first_dilation: dilation of the first, which differs where a stage gives up its stride.
        groups: must be 1; grouped convolutions need the bottleneck.
        avg_down: average in the shortcut before its convolution instead of striding.
        se_reduction: channels over channels of the bottleneck of squeeze and excitation.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        width_per_group: int = 64,
        avg_down: bool = False,
        se_reduction: int | None = None,
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        if groups != 1 or width_per_group != 64:
            raise ValueError(
                'ResNet-18 and -34 (BasicBlock) have no grouped form: groups must be 1 and '
                f'width_per_group 64, not {groups} and {width_per_group}; use depth 50 or more')
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.conv1 = ConvNormAct(in_channels, width, 3, stride, dilation=first_dilation, **style)
        self.conv2 = ConvNormAct(width, width, 3, dilation=dilation, with_act=False, **style)
        self.se = SqueezeExcite(width, width // se_reduction) if se_reduction else nn.Identity()
        self.shortcut = make_shortcut(in_channels, width, stride, avg_down, norm)
        self.drop_path = DropPath(drop_path)
        self.act = make_act(act)

    def zero_init(self) -> None:
        """Make the branch start at zero."""
        zero_scale(self.conv2.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H / stride, W / stride)."""
        branch = self.se(self.conv2(self.conv1(x)))
        return self.act(self.drop_path(branch).add_(self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, the 3x3 one on a quarter of the channels.

    Args:
        in_channels: channels of the input map.
        width: a quarter of the channels that come out.
        stride: step of the 3x3 convolution, or of the first.
        dilation: ignored, the one 3x3 convolution has ``first_dilation``.
        first_dilation: dilation of the 3x3 convolution.
        groups: groups of the 3x3 convolution.
        width_per_group: channels of each group where ``width`` is 64.
        avg_down: average in the shortcut before its convolution instead of striding.
        se_reduction: channels over channels of the bottleneck of squeeze and excitation.
        stride_in_conv1: the first convolution has the stride.
        drop_path: probability to leave the block out in training.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        width_per_group: int = 64,
        avg_down: bool = False,
        se_reduction: int | None = None,
        stride_in_conv1: bool = False,
        drop_path: float = 0.0,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__()
        style: dict[str, Any] = {'norm': norm, 'act': act}
        inner = width * width_per_group // 64 * groups
        out = width * self.expansion
        first, second = (stride, 1) if stride_in_conv1 else (1, stride)
        self.conv1 = ConvNormAct(in_channels, inner, 1, first, **style)
        self.conv2 = ConvNormAct(inner, inner, 3, second, dilation=first_dilation, groups=groups,
                                 **style)
        self.conv3 = ConvNormAct(inner, out, 1, with_act=False, **style)
        self.se = SqueezeExcite(out, out // se_reduction) if se_reduction else nn.Identity()
        self.shortcut = make_shortcut(in_channels, out, stride, avg_down, norm)
        self.drop_path = DropPath(drop_path)
        self.act = make_act(act)

    def zero_init(self) -> None:
        """Make the branch start at zero."""
        zero_scale(self.conv3.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        branch = self.se(self.conv3(self.conv2(self.conv1(x))))
        return self.act(self.drop_path(branch).add_(self.shortcut(x)))


def make_shortcut(in_channels: int, out_channels: int, stride: int, avg_down: bool,
                  norm: dict[str, Any] | None) -> nn.Module:
    """The identity where shapes allow it, else a 1x1 convolution with normalisation."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if not (avg_down and stride > 1):
        return ConvNormAct(in_channels, out_channels, 1, stride, norm=norm, with_act=False)
    return nn.Sequential(OrderedDict(
        pool=nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
        conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
        norm=make_norm(out_channels, norm)))


_BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {
    'basic': BasicBlock, 'bottleneck': Bottleneck}
_SETTINGS: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ('basic', (2, 2, 2, 2)),
    34: ('basic', (3, 4, 6, 3)),
    50: ('bottleneck', (3, 4, 6, 3)),
    101: ('bottleneck', (3, 4, 23, 3)),
    152: ('bottleneck', (3, 8, 36, 3)),
}

_BLOCK_KEYS = (
    *((rf'^layer{i + 1}\.', f'stages.{i}.') for i in range(4)),
    (r'\.conv(\d)\.', r'.conv\1.conv.'),
    (r'\.bn(\d)\.', r'.conv\1.norm.'),
    (r'\.se\.fc1\.', '.se.reduce.'),
    (r'\.se\.fc2\.', '.se.expand.'),
    (r'^fc\.', '../head.fc.'),
)
_PLAIN_KEYS = (
    *_BLOCK_KEYS,
    (r'^conv1\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
    (r'\.downsample\.0\.', '.shortcut.conv.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
)
_DEEP_KEYS = (
    *_BLOCK_KEYS,
    (r'^conv1\.0\.', 'stem.0.conv.'),
    (r'^conv1\.1\.', 'stem.0.norm.'),
    (r'^conv1\.3\.', 'stem.1.conv.'),
    (r'^conv1\.4\.', 'stem.1.norm.'),
    (r'^conv1\.6\.', 'stem.2.conv.'),
    (r'^bn1\.', 'stem.2.norm.'),
)
_RESNET_C_KEYS = (
    *_DEEP_KEYS,
    (r'\.downsample\.0\.', '.shortcut.conv.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
)
_RESNET_D_KEYS = (
    *_DEEP_KEYS,
    (r'\.downsample\.1\.', '.shortcut.conv.'),
    (r'\.downsample\.2\.', '.shortcut.norm.'),
)
_LEGACY_KEYS = (
    (r'^layer0\.conv1\.', 'stem.0.conv.'),
    (r'^layer0\.bn1\.', 'stem.0.norm.'),
    (r'\.se_module\.', '.se.'),
    *_PLAIN_KEYS,
    (r'^last_linear\.', '../head.fc.'),
)
_TRANSFORMERS_KEYS = (
    (r'^resnet\.', ''),
    (r'^encoder\.stages\.(\d+)\.layers\.', r'stages.\1.'),
    *((rf'\.layer\.{i}\.', f'.conv{i + 1}.') for i in range(3)),
    (r'^embedder\.embedder\.', 'stem.0.'),
    (r'\.convolution\.', '.conv.'),
    (r'\.normalization\.', '.norm.'),
    (r'^classifier\.1\.', '../head.fc.'),
)
_OPENMMLAB_KEYS = (
    (r'\.se_layer\.conv1\.conv\.', '.se.reduce.'),
    (r'\.se_layer\.conv2\.conv\.', '.se.expand.'),
    *_BLOCK_KEYS,
    (r'^conv1\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
    (r'^(stem\.\d)\.bn\.', r'\1.norm.'),
)
_OPENMMLAB_PLAIN_KEYS = (
    *_OPENMMLAB_KEYS,
    (r'\.downsample\.0\.', '.shortcut.conv.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
)
# OpenMMLab's list of a shortcut's layers begins with the pooling only where there is a stride.
_OPENMMLAB_D_KEYS = (
    *_OPENMMLAB_KEYS,
    (r'^(stages\.0\..*)\.downsample\.0\.', r'\1.shortcut.conv.'),
    (r'^(stages\.0\..*)\.downsample\.1\.', r'\1.shortcut.norm.'),
    (r'\.downsample\.1\.', '.shortcut.conv.'),
    (r'\.downsample\.2\.', '.shortcut.norm.'),
)


@MODELS.register_module()
class ResNet(nn.Module):
    """Residual network of 18 to 152 layers, for images or anything like them.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks): sets ``block`` and
            ``num_blocks`` where these are left out.
        block: ``'basic'`` or ``'bottleneck'``.
        num_blocks: blocks of each of the (up to four) residual stages.
        in_channels: channels of the input.
        base_channels: width of the first residual stage; each further stage doubles it.
        stem: ``'conv7'`` is 7x7 with stride 2, then max pooling; ``'deep'`` three 3x3 in the
            place of the 7x7; ``'conv3s2'`` one 3x3 with stride 2, for images of 64 to 128 px;
            ``'conv3'`` one 3x3 with no stride at all, for images of 32 px.
        stem_channels: width of the stem, half of it inside a deep one; by default
            ``base_channels``.
        groups: groups of the 3x3 convolutions of bottlenecks (ResNeXt: 32).
        width_per_group: channels of each group in the first stage (ResNeXt: 4 or 8).
        output_stride: 8 or 16 keep the resolution from there on and dilate instead.
        avg_down: average in shortcuts before their convolution (ResNet-D).
        se_reduction: squeeze and excitation in each block with this reduction (SE-ResNet: 16).
        stride_in_conv1: bottlenecks stride in their first convolution, as first published, and
            not in the 3x3 one.
        pool_ceil: the stem's max pooling has no border and rounds sizes up, as in Caffe.
        drop_path: probability to drop the last block in training; it rises linearly from 0.
        zero_init_last: start each residual branch at zero, which steadies early training.
        center_images: subtract the mean of each channel over the image first; for data whose
            objects differ from their surroundings by any colour, so that contrast is what tells.
        norm: see ``make_norm``; ``dict(type=FrozenBatchNorm2d)`` freezes it.
        act: see ``make_act``.
        out_stages: stages whose maps come out, rising, from 1 (the stem before its pooling,
            stride 2) or 2 (stride 4) to 5 (stride 32).

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map that comes out.
    """

    weights = (
        KeyMap('torchvision', _PLAIN_KEYS, signature=(r'^conv1\.weight', r'^layer1\.0\.')),
        KeyMap('timm', _PLAIN_KEYS, signature=(r'^conv1\.weight', r'^layer1\.0\.')),
        KeyMap('timm_senet', _LEGACY_KEYS, signature=(r'^layer0\.conv1\.', r'\.se_module\.')),
        KeyMap('timm_resnet_c', _RESNET_C_KEYS,
               signature=(r'^conv1\.6\.', r'^layer\d\.0\.downsample\.0\.')),
        KeyMap('timm_resnet_d', _RESNET_D_KEYS, signature=(r'^conv1\.6\.', r'^layer1\.0\.')),
        KeyMap('transformers', _TRANSFORMERS_KEYS,
               signature=(r'embedder\.embedder\.convolution\.', r'encoder\.stages\.0\.')),
        # older files of DETR hold timm's names
        KeyMap('transformers', _PLAIN_KEYS, signature=(r'^conv1\.weight', r'^layer1\.0\.')),
        KeyMap('openmmlab', _OPENMMLAB_D_KEYS, signature=(r'^layer\d\.0\.downsample\.2\.',)),
        KeyMap('openmmlab', _OPENMMLAB_PLAIN_KEYS, signature=(r'^layer1\.0\.conv1',)),
    )

    def __init__(
        self,
        depth: int = 50,
        block: Literal['basic', 'bottleneck'] | None = None,
        num_blocks: Sequence[int] | None = None,
        in_channels: int = 3,
        base_channels: int = 64,
        stem: Literal['conv7', 'deep', 'conv3s2', 'conv3'] = 'conv7',
        stem_channels: int | None = None,
        groups: int = 1,
        width_per_group: int = 64,
        output_stride: Literal[8, 16, 32] = 32,
        avg_down: bool = False,
        se_reduction: int | None = None,
        stride_in_conv1: bool = False,
        pool_ceil: bool = False,
        drop_path: float = 0.0,
        zero_init_last: bool = True,
        center_images: bool = False,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
        out_stages: Sequence[int] = (5,),
    ):
        super().__init__()
        self.center_images = center_images
        if depth not in _SETTINGS:
            raise ValueError(f'ResNet has depths {sorted(_SETTINGS)}, not {depth}; '
                             'for another one give block and num_blocks')
        make_block = _BLOCKS[block or _SETTINGS[depth][0]]
        num_blocks = tuple(num_blocks or _SETTINGS[depth][1])
        self.out_stages = check_out_stages(out_stages, first=1, last=len(num_blocks) + 1)
        # A stage after the last wanted one would cost time and never get a gradient.
        num_blocks = num_blocks[: max(self.out_stages[-1] - 1, 0)]

        if stride_in_conv1 and make_block is BasicBlock:
            raise ValueError('stride_in_conv1 is about bottlenecks; basic blocks do so anyway')
        own: dict[str, Any] = {'stride_in_conv1': True} if stride_in_conv1 else {}

        self.stem = make_stem(stem, in_channels, stem_channels or base_channels, norm, act,
                              pool_ceil)
        channels = stem_channels or base_channels
        stem_stride = {'conv3': 1, 'conv3s2': 2}.get(stem, 4)
        probs = iter(drop_path_probs(drop_path, sum(num_blocks)))
        self.stages = nn.ModuleList()
        stage_channels, stage_strides, dilation = [channels], [min(stem_stride, 2)], 1
        total_stride = stem_stride
        for i, num in enumerate(num_blocks):
            stride = 1 if i == 0 else 2
            first_dilation = dilation
            if total_stride * stride > output_stride:
                dilation, stride = dilation * stride, 1
            total_stride *= stride
            blocks = nn.Sequential()
            for j in range(num):
                blocks.append(make_block(
                    channels, base_channels * 2**i,
                    stride=stride if j == 0 else 1,
                    dilation=dilation,
                    first_dilation=first_dilation if j == 0 else dilation,
                    groups=groups, width_per_group=width_per_group, avg_down=avg_down,
                    se_reduction=se_reduction, drop_path=next(probs), norm=norm, act=act,
                    **own))
                channels = base_channels * 2**i * make_block.expansion
            self.stages.append(blocks)
            stage_channels.append(channels)
            stage_strides.append(total_stride)
        self.out_channels = tuple(stage_channels[s - 1] for s in self.out_stages)
        self.strides = tuple(stage_strides[s - 1] for s in self.out_stages)
        init_conv_net(self)
        if zero_init_last:
            for part in self.modules():
                if isinstance(part, (BasicBlock, Bottleneck)):
                    part.zero_init()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of ``out_stages``, each (B, C, H / stride, W / stride), from x (B, 3, H, W)."""
        if self.center_images:
            x = x - x.mean((2, 3), keepdim=True)
        outs = []
        if 1 not in self.out_stages:
            x = self.stem(x)  # whole, so that a hook on it is called
        else:
            for part in self.stem:
                if isinstance(part, nn.MaxPool2d):
                    outs.append(x)
                x = part(x)
            if not outs:
                outs.append(x)  # a stem without pooling
        for stage, blocks in enumerate(self.stages, start=2):
            x = blocks(x)
            if stage in self.out_stages:
                outs.append(x)
        return tuple(outs)


def make_stem(kind: str, in_channels: int, channels: int, norm: dict[str, Any] | None,
              act: dict[str, Any] | None, pool_ceil: bool = False) -> nn.Sequential:
    """What comes before the residual stages."""
    style: dict[str, Any] = {'norm': norm, 'act': act}
    if kind in ('conv3', 'conv3s2'):
        stride = 2 if kind == 'conv3s2' else 1
        return nn.Sequential(ConvNormAct(in_channels, channels, 3, stride, **style))
    pool = nn.MaxPool2d(3, stride=2, padding=0 if pool_ceil else 1, ceil_mode=pool_ceil)
    if kind == 'conv7':
        return nn.Sequential(ConvNormAct(in_channels, channels, 7, 2, **style), pool)
    if kind == 'deep':
        half = channels // 2
        return nn.Sequential(
            ConvNormAct(in_channels, half, 3, 2, **style),
            ConvNormAct(half, half, 3, **style),
            ConvNormAct(half, channels, 3, **style),
            pool)
    raise ValueError(f"ResNet has the stems 'conv7', 'deep', 'conv3s2' and 'conv3', "
                     f'not {kind!r}')
