r"""Networks of mmpretrain, whose outputs ours are compared with.

mmpretrain 1.2 asks for an older mmcv and for classes that transformers no longer has, but its
classifiers work on today's stack. It comes without what it depends on, into a folder of its own::

    pip install --no-deps --target peer mmpretrain mmcv-lite model-index \
        ordered-set mat4py einops
    PYTHONPATH=peer python tools/zoo/check_runs.py --contracts mmpretrain.json.gz --outputs
"""

from __future__ import annotations

import re
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Configs that mmpretrain itself cannot read: they name a variable that is not there.
BROKEN = 'swinv2-(base|large)-w12_8xb128_in21k-192px'
# Pre-training that is more than a backbone; what it is compared by is in tests of ours.
NOT_COMPARED = r'/(?:mae|mocov3|simclr|spark)_|/resnet50-arcface_'


def load() -> Any:
    """Import mmpretrain and register its networks.

    Raises:
        SystemExit: if it is not installed; says how to.
    """
    warnings.filterwarnings('ignore')
    try:
        import mmcv

        mmcv.__version__ = '2.1.0'  # the last that it accepts
        # It needs nothing of its models of images and text, which need an old transformers.
        stub: Any = types.ModuleType('mmpretrain.models.multimodal')
        stub.__all__, stub.__path__ = [], []
        sys.modules[stub.__name__] = stub
        import mmpretrain
        from mmpretrain.utils import register_all_modules
    except ModuleNotFoundError as error:
        raise SystemExit(f'{error}; how to get mmpretrain: see {__file__}') from error
    register_all_modules()
    return mmpretrain


class Peer:
    """One published config of mmpretrain as a network with random weights.

    Args:
        name: of the config, such as ``configs/resnet/resnet50_8xb32_in1k.py``.
    """

    def __init__(self, name: str):
        from mmengine.config import Config

        root = Path(load().__file__).parent / '.mim'
        self.name = name
        self.cfg = Config.fromfile(str(root / name), lazy_import=False)
        self.model_cfg = self.cfg.model

    def build(self) -> nn.Module:
        """The network, in evaluation."""
        from mmpretrain.registry import MODELS

        cfg = self.model_cfg.copy()
        cfg.pop('init_cfg', None)
        cfg.pop('pretrained', None)
        cfg.backbone.pop('init_cfg', None)
        cfg.setdefault('data_preprocessor', None)
        model = MODELS.build(cfg).eval()
        _mend(model)
        return model

    @property
    def image_size(self) -> int:
        """Pixels for the comparison: few, except where a network takes only its own size."""
        size = self.model_cfg.backbone.get('img_size')
        if size is None:
            kind = self.model_cfg.backbone.type
            size = 224 if re.search('ViT|Vision|Swin|Former|Mixer|PCPVT|SVT|VGG', kind) else 128
        return size if isinstance(size, int) else size[0]

    @property
    def num_classes(self) -> int | None:
        """Classes that the head tells apart; nothing if there is no head for classes."""
        head = self.model_cfg.get('head') or {}
        head = head[0] if isinstance(head, list) else head
        return head.get('num_classes')

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How images are prepared for evaluation, in the words of the zoo."""
        found = {**self.cfg.get('data_preprocessor', {}),
                 **(self.model_cfg.get('data_preprocessor') or {})}
        if 'mean' not in found:
            return None
        # Files are read as BGR there, but those of CIFAR as RGB.
        order = 1 if found.get('to_rgb', False) or 'cifar' in self.name else -1
        mean, std = ([round(float(n), 4) for n in found[key]][::order] for key in ('mean', 'std'))
        return {'mean': mean, 'std': std, **_geometry(self.cfg.get('test_dataloader') or {})}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """An RGB image (H, W, 3) after the steps of evaluation, before its normalisation."""
        from mmengine.dataset import Compose
        from mmpretrain.registry import TRANSFORMS

        steps = [TRANSFORMS.build(step) for step in self.cfg.test_dataloader.dataset.pipeline
                 if step['type'] not in ('LoadImageFromFile', 'PackInputs')]
        results = {'img': np.ascontiguousarray(image[..., ::-1]), 'img_shape': image.shape[:2]}
        return Compose(steps)(results)['img'][..., ::-1]

    @property
    def takes_bgr(self) -> bool:
        """Whether the first kernel sees blue first, which key maps of ours turn around."""
        return self.model_cfg.backbone.type == 'RegNet'

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor, is_backbone: bool) -> Tensor:
        """Logits, or the last features, of RGB images."""
        images = images.flip(1) if self.takes_bgr else images
        network: Any = model
        if not is_backbone:
            found = network(images, mode='tensor')
            return sum(found) / len(found) if isinstance(found, (tuple, list)) else found
        try:
            found = network.backbone(images)
        except TypeError:  # asks for a mask
            found = network.backbone(images, mask=None)
        found = found[-1] if isinstance(found, (tuple, list)) else found
        return found[:, 0] if found.ndim == 3 else found  # of all tokens that of the class


def _geometry(loader: Mapping[str, Any]) -> dict[str, Any]:
    """What happens to the size of an image before a network sees it."""
    found: dict[str, Any] = {}
    for step in loader.get('dataset', {}).get('pipeline', ()):
        if step['type'] in ('ResizeEdge', 'Resize', 'EfficientNetCenterCrop'):
            is_square = step['type'] == 'EfficientNetCenterCrop'
            scale = step['crop_size'] if is_square else step['scale']
            backend = step.get('backend', 'cv2')
            found = {'resize': scale if isinstance(scale, int) else scale[0],
                     'interpolation': step.get('interpolation',
                                               'bicubic' if is_square else 'bilinear'),
                     'backend': backend, 'antialias': None if backend == 'pillow' else False,
                     'squash': step['type'] == 'Resize' or None,
                     'crop_padding': step.get('crop_padding', 32) if is_square else None}
        elif step['type'] == 'CenterCrop':
            found['crop'] = step['crop_size']
    if 'CIFAR' in loader.get('dataset', {}).get('type', ''):  # taken as they are
        found = {'resize': 32, 'interpolation': 'bilinear', 'backend': 'pillow', 'squash': True}
    if found.get('squash'):
        found.setdefault('crop', found['resize'])
    return {key: value for key, value in found.items() if value is not None}


@torch.no_grad()
def zero_what_was_not_trained(model: nn.Module) -> None:
    """Keys of EVA-02 have no bias: weights that have been converted hold zeros there."""
    for part in model.modules():
        if type(part).__name__ == 'AttentionWithRoPE':
            linear: Any = part.qkv
            linear.bias.view(3, -1)[1] = 0


def _mend(model: Any) -> None:
    """Let networks compute what those did whose weights have been converted for them.

    DeiT III normalises what enters an MLP by a norm of its own, where mmpretrain takes that of the
    attention. EVA-02 turns both channels of a pair by one angle, and has an epsilon of 1e-6.
    """
    for part in model.modules():
        if type(part).__name__ == 'DeiT3TransformerEncoderLayer':
            part.forward = types.MethodType(_deit3_layer, part)
        if type(part).__name__ == 'RotaryEmbeddingFast':
            part.freqs_cos, part.freqs_sin = _rotations(part)
        if type(model.backbone).__name__ == 'ViTEVA02' and isinstance(part, nn.LayerNorm):
            part.eps = 1e-6


def _deit3_layer(layer: Any, x: Tensor) -> Tensor:
    x = x + layer.attn(layer.ln1(x))
    return layer.ffn(layer.ln2(x), identity=x)


def _rotations(rope: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of EVA-02, which was trained on a grid of 16 by 16."""
    bands = rope.theta ** (-torch.arange(0, rope.half_dim, 2) / rope.half_dim)
    rows, columns = ((torch.arange(n) / n * 16)[:, None] * bands for n in rope.patch_resolution)
    angles = torch.cat([rows[:, None].expand(-1, len(columns), -1),
                        columns[None].expand(len(rows), -1, -1)], dim=2)
    angles = angles.flatten(0, 1).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()
