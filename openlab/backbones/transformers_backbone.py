"""Any vision network of transformers as a backbone, by its config or by its name on the hub.

https://huggingface.co/docs/transformers; the library itself is imported when one is built.
Families with a backbone of their own there give its maps; of all others, the hidden states are
taken, and laid out as maps where they are sequences of tokens.

B batch · C channels · H, W height and width of the image · h, w those of a map · N tokens
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
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

# By their numbers in Pillow.
_INTERPOLATIONS = ('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming')


@MODELS.register_module()
class TransformersBackbone(nn.Module):
    """A vision network of transformers.

    Args:
        name: name on the hub (``'microsoft/swin-tiny-patch4-window7-224'``), or a folder that
            ``save_pretrained`` wrote. Without ``pretrained`` only its config is read, and only
            from the folder or from the cache of this machine.
        config: instead of a name, the config as a dict with ``model_type``, or the path of such a
            JSON file; this needs no network at all.
        pretrained: load the weights of ``name``, from the hub where need be.
        output: ``'maps'``, or ``'pooled'``: the vector (B, C) that the network calls
            ``pooler_output``.
        out_stages: maps that come out, rising; stage k is the last map at stride 2^k.
        out_indices: or their positions: 0 is the stem, then come the stages (of transformers
            without pyramid: the layers); negative ones count from the end. By default the last.
        out_features: or their names, for families with a backbone of their own (``'stage4'``).
        options: keys of the config to set, such as ``drop_path_rate``.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map; for a vector, those of the last map.
        net: the network of transformers. Parameters that no output depends on are frozen.
    """

    weights = library_maps(
        'transformers', (r'^(?!\.\./)', 'net.'),
        # Published files keep the network below its family's name, beside the classifier.
        (r'^(?!classifier\.)[a-z_0-9]+\.(?=embed|encoder|layernorm|pooler|post_)', 'net.'))

    def __init__(
        self,
        name: str | None = None,
        config: dict[str, Any] | str | None = None,
        pretrained: bool = False,
        output: Literal['maps', 'pooled'] = 'maps',
        out_stages: Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
        out_features: Sequence[str] | None = None,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if output not in ('maps', 'pooled'):
            raise ValueError(
                f"TransformersBackbone knows the outputs 'maps' and 'pooled', not {output!r}")
        chosen = [v for v in (out_stages, out_indices, out_features) if v is not None]
        if len(chosen) + (output == 'pooled') > 1:
            raise ValueError("give only one of out_stages, out_indices, out_features and "
                             "output='pooled'")
        library = import_library('transformers', 'TransformersBackbone')
        settings = _read_config(library, name, config, pretrained)
        for key, value in _plain(options or {}).items():
            if not hasattr(settings, key):
                raise ValueError(f'the config of {settings.model_type} has no {key!r}'
                                 + near_names(key, settings.to_dict()))
            setattr(settings, key, value)
        self.name, self.output, self.pretrained = name, output, pretrained
        self.kind = settings.model_type
        self.image_size = _image_size(settings)
        self.patch_size = getattr(settings, 'patch_size', None)
        # Names of the stages exist for backbones only.
        known = library.models.auto.modeling_auto.MODEL_FOR_BACKBONE_MAPPING
        self.is_backbone = output == 'maps' and type(settings) in known
        self.max_prefix = 2 + (getattr(settings, 'num_register_tokens', 0) or 0)
        self._picked: tuple[int, ...] | None = None  # of the maps that the network gives
        image = torch.empty(1, getattr(settings, 'num_channels', 3), *self.image_size,
                            device='meta')
        self._set_up(library, settings, image, out_stages, out_indices, out_features)

    def _set_up(self, library: Any, settings: Any, image: Tensor, out_stages: Sequence[int] | None,
                out_indices: Sequence[int] | None, out_features: Sequence[str] | None) -> None:
        """Build the network on the meta device to see its maps, choose, and build it."""
        if self.is_backbone:
            settings.out_indices = list(range(len(settings.stage_names)))
        with torch.device('meta'):
            self.net = self._make(library, settings, False)
        if self.net.main_input_name != 'pixel_values':
            raise ValueError(f'{self.kind} does not look at images: it takes '
                             f'{self.net.main_input_name}')
        self.can_resize = 'interpolate_pos_encoding' in inspect.signature(
            self.net.forward).parameters
        if self.output == 'maps':
            strides = [self._stride(image, m) for m in probe(self, image)[0]]
            if out_features is not None:
                out_indices = self._indices_of(settings, out_features)
            picked = pick_maps(strides, out_stages, out_indices, self.kind)
            self.strides: tuple[int, ...] = tuple(strides[i] for i in picked)
            if self.is_backbone:
                settings.out_indices = list(picked)
            else:
                self._picked = picked
        self.net = self._make(library, settings, self.pretrained)
        feats, unused = probe(self, image)
        freeze(self, unused)
        self.out_channels: tuple[int, ...] = tuple(f.shape[1] for f in feats)
        if self.output == 'pooled':
            patch = self.patch_size
            self.strides = (patch if isinstance(patch, int) else 32,)

    def _indices_of(self, settings: Any, out_features: Sequence[str]) -> list[int]:
        names = list(settings.stage_names) if self.is_backbone else []
        for feature in out_features:
            if feature not in names:
                has = ', '.join(names) or 'numbers only: use out_indices'
                raise ValueError(f'out_features={tuple(out_features)}: {self.kind} has {has}')
        return [names.index(feature) for feature in out_features]

    def _make(self, library: Any, settings: Any, pretrained: bool) -> Any:
        if not pretrained:
            auto = library.AutoBackbone if self.is_backbone else library.AutoModel
            return auto.from_config(settings)
        # AutoBackbone would ask the hub about the name, even of a folder.
        tables = library.models.auto.modeling_auto
        table = tables.MODEL_FOR_BACKBONE_MAPPING if self.is_backbone else tables.MODEL_MAPPING
        return table[type(settings)].from_pretrained(self.name, config=settings)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps, each (B, C, h, w), or one vector (B, C), of images x (B, 3, H, W)."""
        if self.is_backbone:
            return tuple(self._as_map(m, x) for m in self.net(x).feature_maps)
        more = {'interpolate_pos_encoding': True} if self.can_resize else {}
        found = self.net(x, output_hidden_states=self.output == 'maps', **more)
        if self.output == 'pooled':
            vector = getattr(found, 'pooler_output', None)
            if vector is None:
                raise ValueError(f"{self.kind} has no pooled output; output='maps' gives its last "
                                 'map, whose mean LinearHead takes')
            return (vector.flatten(1),)
        hidden = list(getattr(found, 'reshaped_hidden_states', None) or found.hidden_states)
        # The last hidden state as the network itself gives it away: normalised.
        last = found.last_hidden_state
        if last.shape == hidden[-1].shape:
            hidden[-1] = last
        picked = range(len(hidden)) if self._picked is None else self._picked
        return tuple(self._as_map(hidden[i], x) for i in picked)

    def _as_map(self, x: Tensor, image: Tensor) -> Tensor:
        """Lay tokens (B, N, C) out as (B, C, h, w); leading ones that are no patches go."""
        if x.ndim == 4:
            return x
        height, width = image.shape[2:]
        if isinstance(self.patch_size, int):
            grid = (height // self.patch_size, width // self.patch_size)
            num_prefix = x.shape[1] - grid[0] * grid[1]
            if 0 <= num_prefix <= self.max_prefix:
                return x[:, num_prefix:].transpose(1, 2).unflatten(2, grid)
        # Deeper stages of a pyramid, or patches that are not square: the image's proportions tell.
        for num_prefix in range(self.max_prefix + 1):
            scale = math.sqrt(height * width / max(x.shape[1] - num_prefix, 1))
            grid = (round(height / scale), round(width / scale))
            if num_prefix + grid[0] * grid[1] == x.shape[1]:
                return x[:, num_prefix:].transpose(1, 2).unflatten(2, grid)
        raise ValueError(f'{self.kind} gives {x.shape[1]} tokens for an image of {height} x '
                         f'{width} px; they are no grid of patches')

    def _stride(self, image: Tensor, feat: Tensor) -> int:
        """Input pixels per step: the size of a patch, or the nearest power of 2."""
        ratio = image.shape[2] / feat.shape[2]
        return int(ratio) if ratio == self.patch_size else 2 ** round(math.log2(ratio))

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How images are prepared for the weights of ``name``, in the words of the zoo.

        ``openlab.zoo.recipe.apply_preprocessing(cfg, backbone.preprocessing)`` puts it into a
        config. Mean and deviation are on the scale 0 to 255, sizes in pixels. None for a network
        from a config alone.
        """
        if self.name is None:
            return None
        library = import_library('transformers', 'TransformersBackbone')
        found, _ = library.image_processing_utils.BaseImageProcessor.get_image_processor_dict(
            self.name, local_files_only=not self.pretrained)
        return _preprocessing_of(found)


def _preprocessing_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The words of the zoo for those of a ``preprocessor_config.json``."""
    size, crop = found['size'], found.get('crop_size')
    size = size if isinstance(size, Mapping) else {'shortest_edge': size}
    is_squashed = 'shortest_edge' not in size
    resize = size.get('shortest_edge') or [size['height'], size['width']]
    if not found.get('do_center_crop', crop is not None) or crop is None:
        crop = resize
    crop = [crop['height'], crop['width']] if isinstance(crop, Mapping) else crop
    if found.get('crop_pct') and isinstance(resize, int) and resize < 384:  # ConvNeXt
        crop, resize = resize, int(resize / found['crop_pct'])
    # Without rescaling to 0 to 1, mean and deviation are on the scale of the pixels.
    scale = 255 if found.get('do_rescale', True) else 1
    return {'mean': [round(scale * v, 4) for v in found.get('image_mean', (0, 0, 0))],
            'std': [round(scale * v, 4) for v in found.get('image_std', (1, 1, 1))],
            'resize': _one_number(resize), 'crop': _one_number(crop),
            'interpolation': _INTERPOLATIONS[found.get('resample', 2)], 'backend': 'pillow',
            **({'squash': True} if is_squashed else {})}


def _one_number(size: int | list[int]) -> int | list[int]:
    return size[0] if isinstance(size, list) and size[0] == size[1] else size


def _read_config(library: Any, name: str | None, config: dict[str, Any] | str | None,
                 pretrained: bool) -> Any:
    """The config object of the image part of a network.

    Raises:
        ValueError: if neither or both are given, or the config has no (known) ``model_type``.
        FileNotFoundError: if nothing of that name is here, and nothing may be downloaded.
    """
    if (name is None) == (config is None):
        raise ValueError('TransformersBackbone takes a name or a config, one of them')
    if name is not None:
        try:
            settings = library.AutoConfig.from_pretrained(name, local_files_only=not pretrained)
        except OSError as error:
            if pretrained:
                raise
            raise FileNotFoundError(
                f'{name} is no folder and not in the cache of this machine; pretrained=True allows '
                'to download it, config=dict(model_type=...) needs no download') from error
    else:
        if pretrained:
            raise ValueError('pretrained=True needs a name: a config has no weights')
        keys = json.loads(Path(config).read_text('utf-8')) if isinstance(config, str) else (
            _plain(config))
        kind = keys.pop('model_type', None)
        known = library.models.auto.configuration_auto.CONFIG_MAPPING
        if kind not in known:
            raise ValueError(f'config needs the model_type of a family of transformers, not '
                             f'{kind!r}{near_names(str(kind), known.keys())}')
        settings = library.AutoConfig.for_model(kind, **keys)
        # Some defaults are tuples where the network, used to JSON, adds lists to them.
        for key, value in vars(settings).items():
            if isinstance(value, tuple) and not key.startswith('_'):
                setattr(settings, key, list(value))
    # A model of images and text: its image tower.
    return getattr(settings, 'vision_config', settings)


def _image_size(settings: Any) -> tuple[int, int]:
    size = getattr(settings, 'image_size', None) or 224
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _plain(value: Any) -> Any:
    """Nested configs as dicts and lists, as JSON would have them."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
