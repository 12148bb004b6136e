"""Checkpoints of algorithms and heads, under the names that OpenMMLab gives their tensors.

The tables below are those names, written down by hand; which tensors a checkpoint holds was taken
from the published networks.
"""

import pytest
import torch
from torch import nn

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.algorithms.selfsup.mae import MAE, MAEDecoder
from openlab.algorithms.selfsup.moco_v3 import MoCoV3
from openlab.algorithms.selfsup.simclr import SimCLR
from openlab.backbones.resnet import ResNet
from openlab.backbones.vit import VisionTransformer
from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.loading import load_weights
from openlab.heads.csra_head import CSRAHead
from openlab.heads.linear_head import LinearHead
from openlab.heads.margin_head import MarginHead
from openlab.heads.projector import Projector
from openlab.zoo.openmmlab_configs import config_of, find_published

BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
PLAIN_NORM = BATCH_NORM[2:]


def vit():
    return VisionTransformer(embed_dim=8, depth=1, num_heads=2, patch_size=8, image_size=16,
                             with_fixed_position=True)


def vit_names(theirs, ours):
    pairs = {'cls_token': 'class_token', 'pos_embed': 'position'}
    for a, b in (('patch_embed.projection', 'patch_embed.proj'), ('ln1', 'norm'),
                 *block_names('layers.0', 'blocks.0')):
        pairs.update({f'{a}.{end}': f'{b}.{end}' for end in ('weight', 'bias')})
    return {theirs + a: ours + b for a, b in pairs.items()}


def block_names(theirs, ours):
    return [(f'{theirs}.{a}', f'{ours}.{b}') for a, b in (
        ('ln1', 'norm1'), ('attn.qkv', 'attn.qkv'), ('attn.proj', 'attn.proj'), ('ln2', 'norm2'),
        ('ffn.layers.0.0', 'mlp.fc1'), ('ffn.layers.1', 'mlp.fc2'))]


def projector_names(theirs, ours, num_layers, last=PLAIN_NORM):
    pairs = {}
    for i in range(num_layers):
        pairs[f'{theirs}fc{i}.weight'] = f'{ours}layers.{3 * i}.weight'
        for end in BATCH_NORM if i < num_layers - 1 else last:
            pairs[f'{theirs}bn{i}.{end}'] = f'{ours}layers.{3 * i + 1}.{end}'
    return pairs


def mae():
    decoder = {'neck.mask_token': 'decoder.mask_token'}
    for a, b in (('neck.decoder_embed', 'decoder.embed'), ('neck.ln1', 'decoder.norm'),
                 ('neck.decoder_pred', 'to_pixels'),
                 *block_names('neck.decoder_blocks.0', 'decoder.blocks.0')):
        decoder.update({f'{a}.{end}': f'{b}.{end}' for end in ('weight', 'bias')})
    return (MAE(vit(), MAEDecoder(4, 1, 2, in_channels=8)),
            {**vit_names('backbone.', 'backbone.'), **decoder},
            {'neck.decoder_pos_embed': torch.zeros(1, 5, 4)})


def moco_v3():
    model = MoCoV3(vit(), Projector(6, 4, 3, 8, last_norm='plain'),
                   Projector(6, 4, 2, 4, last_norm='plain'))
    return model, {
        **vit_names('backbone.', 'backbone.'), **projector_names('neck.', 'projector.', 3),
        **projector_names('head.predictor.', 'predictor.', 2),
        **vit_names('momentum_encoder.module.0.', 'key_backbone.'),
        **projector_names('momentum_encoder.module.1.', 'key_projector.', 3),
    }, {'momentum_encoder.steps': torch.tensor(7)}


def resnet():
    return ResNet(block='basic', num_blocks=(1,), base_channels=4, out_stages=(2,))


def resnet_names(theirs, ours):
    pairs = {f'{theirs}conv1.weight': f'{ours}stem.0.conv.weight',
             f'{theirs}layer1.0.conv1.weight': f'{ours}stages.0.0.conv1.conv.weight',
             f'{theirs}layer1.0.conv2.weight': f'{ours}stages.0.0.conv2.conv.weight'}
    for a, b in (('bn1', 'stem.0.norm'), ('layer1.0.bn1', 'stages.0.0.conv1.norm'),
                 ('layer1.0.bn2', 'stages.0.0.conv2.norm')):
        pairs.update({f'{theirs}{a}.{end}': f'{ours}{b}.{end}' for end in BATCH_NORM})
    return pairs


def simclr():
    return (SimCLR(resnet(), Projector(6, 4, 2, 4)), {
        **resnet_names('backbone.', 'backbone.'),
        **projector_names('neck.', 'projector.', 2, last=BATCH_NORM)}, {})


def arcface():
    return (ImageClassifier(resnet(), head=MarginHead(3, 4)), {
        **resnet_names('image_encoder.0.', 'backbone.'),
        'head.norm_product.weight': 'head.centers'}, {})


def csra():
    return (ImageClassifier(resnet(), head=CSRAHead(3, 4, num_heads=2)), {
        **resnet_names('backbone.', 'backbone.'),
        **{f'head.csra_heads.{i}.head.weight': f'head.classifiers.{i}.weight' for i in (0, 1)},
    }, {})


def linear_probe():
    head = LinearHead(3, 8, norm={'type': 'BatchNorm1d', 'affine': False})
    return (ImageClassifier(vit(), head=head), {
        **vit_names('backbone.', 'backbone.'),
        **{f'neck.bn.{end}': f'head.norm.{end}' for end in PLAIN_NORM},
        **{f'head.layers.head.{end}': f'head.fc.{end}' for end in ('weight', 'bias')}}, {})


@pytest.mark.parametrize('make', [mae, moco_v3, simclr, arcface, csra, linear_probe])
def test_every_tensor_arrives_under_our_name(make):
    torch.manual_seed(0)
    model, names, dropped = make()
    own = model.state_dict()
    assert sorted(names.values()) == sorted(own)
    values = {name: torch.randn(own[name].shape).to(own[name].dtype) for name in own}
    published = {theirs: values[ours] for theirs, ours in names.items()}
    if make is csra:
        published = {k: v[:, :, None, None] if k.startswith('head.') else v
                     for k, v in published.items()}
    report = load_weights(model, {**published, **dropped})
    assert report.complete and not report.unexpected and set(report.dropped) == set(dropped)
    assert all(model.state_dict()[name].equal(value) for name, value in values.items())


def test_a_probe_normalises_features_before_its_layer():
    head = LinearHead(2, 4, norm={'type': nn.BatchNorm1d, 'affine': False}).eval()
    head.norm.running_mean.fill_(1.0)
    head.norm.running_var.fill_(4.0 - head.norm.eps)
    feats = torch.randn(3, 4)
    torch.testing.assert_close(head((feats,)), head.fc((feats - 1) / 2))


@pytest.mark.parametrize(('published', 'config', 'depth', 'width'), [
    ('mae/mae_vit-base-p16_8xb512-amp-coslr-1600e_in1k', 'mae/mae_vit_base_800e_imagenet', 12, 768),
    ('mae/mae_vit-huge-p14_8xb512-amp-coslr-1600e_in1k', 'mae/mae_vit_large_800e_imagenet', 32,
     1280),
    ('mocov3/mocov3_vit-large-p16_64xb64-amp-coslr-300e_in1k',
     'moco_v3/moco_v3_vit_base_300e_imagenet', 24, 1024)])
def test_pretraining_of_openmmlab_is_found_among_ours(published, config, depth, width):
    name = f'configs/{published}.py'
    row = find_published(name)
    assert config_of(row, name) == f'configs/selfsup/{config}.py'
    cfg = load_config(config_of(row, name), row.overrides(name)).to_plain()['model']
    with torch.device('meta'):
        backbone = build(cfg, path='model').backbone
    assert (len(backbone.blocks), backbone.out_channels[-1]) == (depth, width)
