"""Checkpoints of transformers through the key maps of convolutional and windowed backbones."""

import re

import pytest
import torch
import transformers

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.beit import BEiT
from openlab.backbones.convnext import ConvNeXt
from openlab.backbones.efficientnet import EfficientNet
from openlab.backbones.mobilenet_v2 import MobileNetV2
from openlab.backbones.poolformer import PoolFormer
from openlab.backbones.pvt_v2 import PVTv2
from openlab.backbones.regnet import RegNet
from openlab.backbones.swin import SwinTransformer
from openlab.engine.loading import load_weights
from openlab.heads.linear_head import LinearHead

FINE = {'type': torch.nn.BatchNorm2d, 'eps': 0.001}
SWIN = {'embed_dim': 16, 'num_heads': (2, 2, 4, 4), 'num_blocks': (1, 2, 1, 1)}
SWIN_PEER = {'embed_dim': 16, 'num_heads': [2, 2, 4, 4], 'depths': [1, 2, 1, 1], 'image_size': 128}
NETWORKS = {
    'convnext': (
        lambda: ConvNeXt(base_channels=8, num_blocks=(1, 1, 2, 1)),
        transformers.ConvNextForImageClassification,
        {'depths': [1, 1, 2, 1], 'hidden_sizes': [8, 16, 32, 64]}),
    'convnext_v2': (
        lambda: ConvNeXt(base_channels=8, num_blocks=(1, 1, 2, 1), version=2),
        transformers.ConvNextV2ForImageClassification,
        {'depths': [1, 1, 2, 1], 'hidden_sizes': [8, 16, 32, 64]}),
    'swin': (lambda: SwinTransformer(**SWIN, window_size=4),
             transformers.SwinForImageClassification, {**SWIN_PEER, 'window_size': 4}),
    'swin_v2': (lambda: SwinTransformer(**SWIN, version=2, window_size=4),
                transformers.Swinv2ForImageClassification, {**SWIN_PEER, 'window_size': 4}),
    'beit': (
        lambda: BEiT(embed_dim=24, depth=2, num_heads=2, patch_size=8, image_size=64,
                     drop_path=0.0),
        transformers.BeitForImageClassification,
        {'hidden_size': 24, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'patch_size': 8,
         'intermediate_size': 96, 'image_size': 64, 'use_relative_position_bias': True,
         'layer_scale_init_value': 0.1, 'drop_path_rate': 0.0}),
    'regnet_y': (lambda: RegNet('y_400mf'), transformers.RegNetForImageClassification,
                 {'embedding_size': 32, 'hidden_sizes': [48, 104, 208, 440],
                  'depths': [1, 3, 6, 6], 'groups_width': 8, 'layer_type': 'y'}),
    'regnet_x': (lambda: RegNet('x_400mf'), transformers.RegNetForImageClassification,
                 {'embedding_size': 32, 'hidden_sizes': [32, 64, 160, 384],
                  'depths': [1, 2, 7, 12], 'groups_width': 16, 'layer_type': 'x'}),
    'pvt_v2': (lambda: PVTv2('b0'), transformers.PvtV2ForImageClassification, {}),
    'efficientnet': (
        lambda: EfficientNet('b0', padding='same', norm=FINE),
        transformers.EfficientNetForImageClassification,
        {'width_coefficient': 1.0, 'depth_coefficient': 1.0, 'hidden_dim': 1280}),
    'efficientnet_b2': (
        lambda: EfficientNet('b2', padding='same', norm=FINE),
        transformers.EfficientNetForImageClassification,
        {'width_coefficient': 1.1, 'depth_coefficient': 1.2, 'hidden_dim': 1408}),
    'mobilenet_v2': (lambda: MobileNetV2(padding='same', norm=FINE),
                     transformers.MobileNetV2ForImageClassification, {}),
    'poolformer': (
        lambda: PoolFormer(channels=(8, 16, 24, 32), num_blocks=(1, 1, 2, 1)),
        transformers.PoolFormerForImageClassification,
        {'depths': [1, 1, 2, 1], 'hidden_sizes': [8, 16, 24, 32]}),
}
# What files on the hub call the parts that models of transformers 5 have renamed.
FORMER = (
    (r'\.attention\.([qkv])_proj\.', lambda m: '.attention.self.'
     + {'q': 'query', 'k': 'key', 'v': 'value'}[m[1]] + '.'),
    (r'\.attention\.o_proj\.', '.attention.output.dense.'),
    (r'\.mlp\.fc1\.', '.intermediate.dense.'),
    (r'\.mlp\.fc2\.', '.output.dense.'),
)


def size_of(family):
    return 128 if 'swin' in family else 64  # windows must fit into the last map there


def randomised(peer):
    torch.manual_seed(0)
    for name, tensor in peer.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and ('bias' in name or tensor.ndim <= 1):
            tensor.uniform_(0.2, 0.8)
    return peer.eval()


def pair(family):
    make, kind, settings = NETWORKS[family]
    peer = randomised(kind(kind.config_class(**settings, num_labels=7)))
    backbone = make()
    ours = ImageClassifier(backbone, head=LinearHead(7, backbone.out_channels[-1]))
    return ours.eval(), peer


def assert_equal(ours, peer, state, size=64):
    report = load_weights(ours, state)
    assert "key map 'transformers'" in report.key_map and not report.unexpected
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), peer(images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family', NETWORKS)
def test_logits_equal_those_of_transformers_with_the_same_weights(family):
    ours, peer = pair(family)
    assert_equal(ours, peer, peer.state_dict(), size_of(family))


@pytest.mark.parametrize('family', ['swin', 'beit'])
def test_files_on_the_hub_have_former_names(family):
    ours, peer = pair(family)
    state = {}
    for key, tensor in peer.state_dict().items():
        for pattern, new in FORMER:
            key = re.sub(pattern, new, key)
        if family == 'swin':
            key = key.replace('attention.relative_position_bias.', 'attention.self.')
        else:
            key = key.replace('beit.layers.', 'beit.encoder.layer.').replace(
                'attention.self.', 'attention.attention.').replace(
                '.relative_position_bias.', '.attention.attention.relative_position_bias.')
        state[key] = tensor
    assert state.keys() != peer.state_dict().keys()
    assert_equal(ours, peer, state, size_of(family))


@pytest.mark.parametrize(('kind', 'settings', 'make'), [
    (transformers.SwinBackbone, {**SWIN_PEER, 'window_size': 4},
     lambda: SwinTransformer(**SWIN, window_size=4, out_stages=(2, 3, 4, 5))),
    (transformers.ConvNextBackbone, {'depths': [1, 1, 2, 1], 'hidden_sizes': [8, 16, 32, 64]},
     lambda: ConvNeXt(base_channels=8, num_blocks=(1, 1, 2, 1), output='maps',
                      out_stages=(2, 3, 4, 5)))])
def test_maps_of_all_stages_equal_those_of_their_backbones(kind, settings, make):
    peer = randomised(kind(kind.config_class(
        **settings, out_features=['stage1', 'stage2', 'stage3', 'stage4'])))
    ours = make().eval()
    load_weights(ours, peer.state_dict())
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        for mine, theirs in zip(ours(images), peer(images).feature_maps, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
