"""Any network of timm as a backbone, under the name that timm gives it.

https://github.com/huggingface/pytorch-image-models; timm itself is imported when one is built.

B batch · C channels · H, W height and width of the image · h, w those of a map
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openlab.backbones.outside import (
    freeze,
    import_library,
    library_maps,
    near_names,
    pick_maps,
    probe,
)
from openlab.registry import MODELS


@MODELS.register_module()
class TimmBackbone(nn.Module):
    """A network of timm.

    Args:
        name: name of the network, with or without the tag of its weights
            (``'resnet50.a1_in1k'``).
        pretrained: whether timm downloads its weights, or the path of a file with them. Nothing
            is downloaded otherwise; ``load_from='timm://NAME'`` in a config goes through the zoo.
        output: ``'maps'``, or ``'pooled'``: the vector (B, C) that timm's own classifier gets, so
            that a ``LinearHead`` makes it the whole published network.
        out_stages: maps that come out, rising; stage k is the last map at stride 2^k.
        out_indices: or their positions in timm's list of features, from 0; negative ones count
            from the end. By default the last map.
        in_channels: channels of the input.
        image_size: height and width (or one number for both) to build a network for that takes
            images of one size only; by default what timm trained it with.
        options: more arguments of the network, such as ``drop_path_rate``, ``output_stride`` or
            ``dynamic_img_size``.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map; for a vector, those of the last map.
        net: the network of timm. Parameters that no output depends on are frozen.
    """

    weights = library_maps(
        'timm', (r'^(?!\.\./)', 'net.'), (r'^(?!\.\./)', 'net.model.'),
        (r'^(?!\.\./)', 'net.body.'), (r'^(\w+)\.(\d+)\.', r'net.\1_\2.'))

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        output: Literal['maps', 'pooled'] = 'maps',
        out_stages: Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        image_size: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        timm = import_library('timm', 'TimmBackbone')
        if output not in ('maps', 'pooled'):
            raise ValueError(f"TimmBackbone knows the outputs 'maps' and 'pooled', not {output!r}")
        if output == 'pooled' and (out_stages, out_indices) != (None, None):
            raise ValueError("out_stages and out_indices need output='maps', not 'pooled'")
        _check_name(timm, name, bool(pretrained))
        self.name, self.output = name, output
        arguments: dict[str, Any] = {'in_chans': in_channels, **(options or {})}
        if image_size is not None:
            arguments['img_size'] = _pair(image_size)
        if output == 'pooled':
            arguments['num_classes'] = 0
        else:
            strides = _all_strides(timm, name, arguments)
            indices = pick_maps(strides, out_stages, out_indices, name)
            arguments |= {'features_only': True, 'out_indices': indices}
        if isinstance(pretrained, str):
            arguments |= {'pretrained_cfg_overlay': {'file': pretrained}}
        self.net = timm.create_model(name, pretrained=bool(pretrained), **arguments)

        cfg = self.net.pretrained_cfg
        self.image_size = _pair(image_size or cfg['input_size'][1:])
        self.takes_one_size = bool(cfg.get('fixed_input_size')) and not any(
            getattr(m, 'strict_img_size', None) is False for m in self.net.modules())
        # timm's networks that mix channels last say so; all others give channels first.
        self.is_channels_last = getattr(self.net, 'output_fmt', 'NCHW') == 'NHWC'
        info = self.net.feature_info
        self.strides: tuple[int, ...] = (
            tuple(info.reduction()) if output == 'maps' else (info[-1]['reduction'],))
        image = torch.empty(1, in_channels, *self.image_size, device='meta')
        feats, unused = probe(self, image)
        freeze(self, unused)
        self.out_channels: tuple[int, ...] = tuple(f.shape[1] for f in feats)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps, each (B, C, h, w), or one vector (B, C), of images x (B, 3, H, W)."""
        if self.takes_one_size and tuple(x.shape[2:]) != self.image_size:
            raise ValueError(
                f'{self.name} takes images of {_times(self.image_size)} px only, not '
                f'{_times(x.shape[2:])}; resize them, give image_size, or, where the network knows '
                'it, options=dict(dynamic_img_size=True) or dict(strict_img_size=False)')
        feats = self.net(x)
        if self.output == 'pooled':
            return (feats,)
        if self.is_channels_last:
            return tuple(f.permute(0, 3, 1, 2) for f in feats)
        return tuple(feats)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How timm prepares images for the weights of this name, in the words of the zoo.

        ``openlab.zoo.recipe.apply_preprocessing(cfg, backbone.preprocessing)`` puts it into a
        config. Mean and deviation are on the scale 0 to 255, sizes in pixels.
        """
        cfg = self.net.pretrained_cfg
        size = (cfg.get('test_input_size') or cfg['input_size'])[-1]
        if self.takes_one_size:
            size = self.image_size[-1]
        share = cfg.get('test_crop_pct') or cfg['crop_pct']
        return {'mean': [round(255 * v, 4) for v in cfg['mean']],
                'std': [round(255 * v, 4) for v in cfg['std']],
                'resize': math.floor(size / share), 'crop': size,
                'interpolation': cfg['interpolation'], 'backend': 'pillow',
                **({'squash': True} if cfg.get('crop_mode') == 'squash' else {})}

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, as timm lists them."""
        inner, prefix = self.net, 'net.'
        if not hasattr(inner, 'no_weight_decay') and hasattr(inner, 'model'):
            inner, prefix = inner.model, 'net.model.'
        listed: set[str] = getattr(inner, 'no_weight_decay', set)()
        return {f'{prefix}{name}' for name in listed} & dict(self.named_parameters()).keys()


def _check_name(timm: Any, name: str, may_download: bool) -> None:
    if name.partition(':')[0] in ('hf-hub', 'hf_hub'):
        if not may_download:
            raise ValueError(f'{name}: even the shape of the network is on the hub; '
                             'pretrained=True allows to download it')
    elif not name.startswith('local-dir:') and not timm.is_model(name):
        raise ValueError(f'timm has no network {name!r}'
                         + near_names(name.partition('.')[0], timm.list_models()))


def _all_strides(timm: Any, name: str, arguments: dict[str, Any]) -> list[int]:
    """Stride of each feature that a network of timm has.

    Raises:
        ValueError: if timm cannot give features of it.
    """
    try:
        with torch.device('meta'):
            # One index, because the number that a family has by default may be too many here.
            net = timm.create_model(name, features_only=True, out_indices=(0,), **arguments)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"timm gives no maps of {name} ({error}); output='pooled' gives its "
                         'vector') from error
    return [stage['reduction'] for stage in net.feature_info.info]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _times(size: Sequence[int]) -> str:
    return ' x '.join(str(int(s)) for s in size)
