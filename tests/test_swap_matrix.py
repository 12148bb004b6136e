"""Every backbone under every vision algorithm: the whole matrix without memory, a sample for real.

Backbones come from the registry and algorithms from the shipped configs, so that new ones enter by
themselves.
"""

import copy
from functools import cache

import pytest
import torch

from openlab.config import load_config
from openlab.config.build import build, watch_derived
from openlab.config.load import shipped_configs
from openlab.config.nodes import ConfigDict, LazyName
from openlab.config.parts import backbone_classes, sizes_of
from openlab.config.plain import to_plain
from openlab.config.resolve import without_draws
from openlab.config.swap import fit_backbone, meta_backbone
from openlab.registry import MODELS

from .test_configs import shrink
from .test_configs import test_loss_is_finite_and_every_parameter_gets_a_gradient as take_steps

# Networks of other packages, which are named.
NAMED = {
    'TimmBackbone': {'name': 'test_resnet'},
    'TorchvisionBackbone': {'name': 'mobilenet_v2'},
    'TransformersBackbone': {'config': {
        'model_type': 'resnet', 'embedding_size': 8, 'hidden_sizes': [8, 16, 24, 32],
        'depths': [1, 1, 1, 1], 'layer_type': 'basic'}},
}
SMALL_WORDS = ('atto', 'nano', 'tiny', 'small', 'base')


@cache
def algorithms():
    """The model of one shipped config of each vision algorithm that has a backbone, by class."""
    found, seen = {}, set()
    for config in shipped_configs():
        task, *_ = folders = config.split('/')[:-1]
        family = {'quickstart': config, 'classification': task}.get(task, folders[-1])
        if task not in ('classification', 'detection', 'segmentation', 'quickstart') or (
                family in seen):
            continue
        seen.add(family)
        model = load_config(config).model
        name = model.type.dotted_path.rpartition('.')[2]
        backbone = model.get('backbone')
        if isinstance(backbone, dict) and '.backbones.' in backbone.type.dotted_path and (
                '.llama.' not in backbone.type.dotted_path):
            found.setdefault(name, model)
    return found


def smallest(name):
    """A backbone in the smallest of its published sizes."""
    entry = backbone_classes()[name]
    argument, sizes = sizes_of(MODELS.get(name))
    words = [s for w in SMALL_WORDS for s in sizes if isinstance(s, str) and s.endswith(w)]
    cfg = ConfigDict(type=LazyName(f'{entry.module}.{name}'), **NAMED.get(name, {}))
    if argument:
        cfg[argument] = words[0] if words else sizes[0]
    return cfg


@cache
def rest_of(algorithm):
    """All but the backbone, and that small: its own size has nothing to do with what feeds it."""
    rest = {k: v for k, v in algorithms()[algorithm].items() if k != 'backbone'}
    return shrink(to_plain(rest))


def swapped(algorithm, backbone):
    if getattr(MODELS.get(algorithm), 'needs_maps', True):
        backbone = fit_backbone(backbone, algorithms()[algorithm].backbone, algorithm)
    return copy.deepcopy(rest_of(algorithm)), backbone


def test_the_matrix_has_all_algorithms():
    assert set(algorithms()) >= {
        'ImageClassifier', 'RetinaNet', 'FCOS', 'FasterRCNN', 'MaskRCNN', 'DETR', 'FCN',
        'DeepLabV3', 'DeepLabV3Plus', 'SegFormer', 'Mask2Former', 'MultiTask'}
    assert len(backbone_classes()) >= 20


@pytest.mark.parametrize('name', list(backbone_classes()))
def test_a_backbone_goes_under_every_algorithm(name):
    for algorithm in algorithms():
        rest, backbone = swapped(algorithm, smallest(name))
        wanted = len(algorithms()[algorithm].backbone.get('out_stages', (5,)))
        module, derived = meta_backbone(backbone), {}
        model = {'backbone': module, **rest}
        with torch.device('meta'), without_draws(), watch_derived(derived.__setitem__):
            whole = build(model, path='model')
        assert all(p.is_meta for p in whole.parameters())
        assert len(module.out_channels) == wanted or algorithm == 'ImageClassifier', algorithm
        fed = [v for k, v in derived.items() if k.endswith('in_channels')]
        assert fed and any(v in (module.out_channels, module.out_channels[-1]) for v in fed), (
            algorithm, module.out_channels, derived)


TINY_STAGES = {'num_blocks': (1, 1, 1, 1)}
SAMPLE = {
    'ImageClassifier': ('PVTv2', {'embed_dims': (16,) * 4, 'mlp_ratios': (2,) * 4,
                                  'num_heads': (1, 1, 2, 2), 'drop_path': 0.0, **TINY_STAGES}),
    'RetinaNet': ('ConvNeXt', {'base_channels': 8, 'layer_scale': None, **TINY_STAGES}),
    'FCOS': ('VisionTransformer', {'embed_dim': 32, 'depth': 1, 'num_heads': 2}),
    'FasterRCNN': ('MobileNetV3', {'width': 0.25}),
    'MaskRCNN': ('EVA02', {'embed_dim': 32, 'depth': 1, 'num_heads': 2, 'drop_path': 0.0}),
    'DETR': ('ShuffleNetV2', {'num_blocks': (1, 1, 1), 'last_channels': 64}),
    'FCN': ('MLPMixer', {'embed_dim': 16, 'depth': 1, 'image_size': 64}),
    'DeepLabV3': ('RegNet', {'depth': 6, 'base_channels': 8, 'slope': 10.0, 'step': 2.0,
                             'group_width': 8}),
    'DeepLabV3Plus': ('ResNet', {'base_channels': 8}),
    'SegFormer': ('SwinTransformer', {'embed_dim': 16, 'num_heads': (2,) * 4, 'window_size': 4,
                                      'drop_path': 0.0, **TINY_STAGES}),
    'Mask2Former': ('PoolFormer', {'channels': (8, 16, 24, 32), **TINY_STAGES}),
    'MultiTask': ('BEiT', {'embed_dim': 32, 'depth': 1, 'num_heads': 2, 'drop_path': 0.0}),
}
FAST = ('RetinaNet', 'FCOS', 'FCN')


@pytest.mark.parametrize('algorithm', [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SAMPLE])
def test_a_step_of_a_swapped_model_reaches_every_parameter(algorithm):
    name, tiny = SAMPLE[algorithm]
    rest, backbone = swapped(algorithm, smallest(name) | tiny)
    if 'neck' in backbone:
        backbone['neck']['out_channels'] = 16
    take_steps({'backbone': to_plain(backbone), **rest})
