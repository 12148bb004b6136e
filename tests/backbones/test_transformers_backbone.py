import json
import sys

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from openlab.backbones.transformers_backbone import TransformersBackbone, _preprocessing_of
from openlab.engine.loading import load_weights
from tests.backbones.outside import (
    assert_learns_and_returns_from_disk,
    assert_maps_as_promised,
    assert_serves_detectors_and_segmentors,
)

RESNET = {'model_type': 'resnet', 'embedding_size': 8, 'hidden_sizes': (8, 16, 24, 32),
          'depths': (1, 1, 1, 1), 'layer_type': 'basic'}
VIT = {'model_type': 'vit', 'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2,
       'intermediate_size': 48, 'image_size': 32, 'patch_size': 8}
DINO = {'model_type': 'dinov2', 'hidden_size': 32, 'num_hidden_layers': 2,
        'num_attention_heads': 2, 'image_size': 32, 'patch_size': 8}


def config_of(keys):
    keys = dict(keys)
    return transformers.AutoConfig.for_model(keys.pop('model_type'), **keys)


@pytest.mark.parametrize(('keys', 'features'), [
    (RESNET, ('stage2', 'stage4')), (DINO, ('stage1', 'stage2'))])
def test_maps_equal_those_of_the_librarys_backbone(keys, features):
    settings = config_of(keys)
    settings.out_features = list(features)
    peer = transformers.AutoBackbone.from_config(settings).eval()
    ours = TransformersBackbone(config=keys, out_features=features).eval()
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        for found, expected in zip(ours(images), peer(images).feature_maps, strict=True):
            assert torch.equal(found, expected)


def test_hidden_states_of_other_families_become_maps_without_the_class_token():
    peer = transformers.AutoModel.from_config(config_of(VIT)).eval()
    ours = TransformersBackbone(config=VIT, out_indices=(1, -1)).eval()
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = peer(images, output_hidden_states=True)
        first, last = ours(images)
    assert torch.equal(first.flatten(2).transpose(1, 2), expected.hidden_states[1][:, 1:])
    assert torch.equal(last.flatten(2).transpose(1, 2), expected.last_hidden_state[:, 1:])
    assert_maps_as_promised(ours, (64, 32))  # positions are interpolated


def test_a_backbone_that_gives_tokens_gives_maps():
    keys = {'model_type': 'vitpose_backbone', 'image_size': (64, 32), 'patch_size': (16, 16),
            'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2}
    settings = config_of(keys)
    settings.out_indices = [2]
    peer = transformers.AutoBackbone.from_config(settings).eval()
    ours = TransformersBackbone(config=keys).eval()
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        found, expected = ours(images)[0], peer(images).feature_maps[0]
    assert found.shape == (2, 32, 4, 2)
    assert torch.equal(found.flatten(2).transpose(1, 2), expected)
    assert ours.strides == (16,)


# Families whose networks take something else than images of a batch, or need another library,
# mix tensors of two devices (lw_detr_vit), or have maps with two strides (pp_lcnet_v4).
NO_BACKBONES = {
    'dinat', 'imagegpt', 'lw_detr_vit', 'maskformer-swin', 'metaclip_2', 'perceiver',
    'pp_lcnet_v4', 'siglip2', 'timm_backbone', 'timm_wrapper'}


@pytest.mark.slow
@pytest.mark.parametrize('kind', sorted(
    {*modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
     *modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES} - NO_BACKBONES))
def test_every_vision_family_is_a_backbone(kind):
    with torch.device('meta'):
        backbone = TransformersBackbone(config={'model_type': kind})
        found = backbone(torch.empty(1, 3, *backbone.image_size))
    assert tuple(m.shape[1] for m in found) == backbone.out_channels
    assert found[0].ndim == 4
    assert backbone.strides[0] in (14, 16, 32, 64)
    ratio = backbone.image_size[1] / found[0].shape[3] / backbone.strides[0]
    assert 0.85 < ratio < 1.15


def test_the_pooled_vector_is_the_librarys():
    peer = transformers.AutoModel.from_config(config_of(RESNET)).eval()
    ours = TransformersBackbone(config=RESNET, output='pooled').eval()
    load_weights(ours, peer.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images)[0], peer(images).pooler_output.flatten(1))
    assert ours.out_channels == (32,)


def test_transformers_networks_serve_detectors_and_segmentors():
    assert_serves_detectors_and_segmentors({'type': 'TransformersBackbone', 'config': RESNET})


def test_transformers_networks_learn_and_return_from_disk():
    assert_learns_and_returns_from_disk(TransformersBackbone(config=DINO), 32)
    backbone = TransformersBackbone(config=VIT)
    assert_learns_and_returns_from_disk(backbone, 32)
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == ['net.pooler.dense.weight', 'net.pooler.dense.bias']  # of no map's business


def test_a_saved_folder_gives_config_weights_and_preprocessing(tmp_path):
    peer = transformers.AutoBackbone.from_config(config_of(RESNET)).eval()
    peer.save_pretrained(tmp_path)
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(CONVNEXT))
    ours = TransformersBackbone(str(tmp_path), pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images)[0], peer(images).feature_maps[-1])
    assert ours.preprocessing == _preprocessing_of(CONVNEXT)
    fresh = TransformersBackbone(config=str(tmp_path / 'config.json'), out_stages=(4, 5))
    assert fresh.out_channels == (24, 32)


CONVNEXT = {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.25, 0.25, 0.25], 'crop_pct': 0.875,
            'size': {'shortest_edge': 224}, 'resample': 3, 'do_rescale': True}
PLAIN_VIT = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'resample': 2,
             'size': {'height': 224, 'width': 224}}


def test_preprocessing_is_told_in_the_words_of_the_zoo():
    assert _preprocessing_of(CONVNEXT) == {
        'mean': [127.5] * 3, 'std': [63.75] * 3, 'resize': 256, 'crop': 224,
        'interpolation': 'bicubic', 'backend': 'pillow'}
    assert _preprocessing_of(PLAIN_VIT) == {
        'mean': [127.5] * 3, 'std': [127.5] * 3, 'resize': 224, 'crop': 224,
        'interpolation': 'bilinear', 'backend': 'pillow', 'squash': True}


@pytest.mark.parametrize(('arguments', 'message'), [
    ({}, 'a name or a config'),
    ({'config': {'model_type': 'resnett'}}, 'did you mean .*resnet'),
    ({'config': {'model_type': 'bert'}}, 'does not look at images: it takes input_ids'),
    ({'config': RESNET, 'pretrained': True}, 'needs a name'),
    ({'config': RESNET, 'out_features': ('stage7',)}, 'has stem, stage1'),
    ({'config': RESNET, 'out_stages': (6,)}, 'stride 64'),
    ({'config': RESNET, 'out_stages': (5,), 'out_indices': (1,)}, 'only one of'),
    ({'config': RESNET, 'options': {'hidden_act_': 'relu'}}, 'did you mean hidden_act'),
])
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformersBackbone(**arguments)


def test_nothing_is_downloaded_unless_pretrained_says_so(monkeypatch):
    monkeypatch.setattr('socket.socket.connect', lambda *a: pytest.fail('went to the network'))
    with pytest.raises(FileNotFoundError, match='pretrained=True allows'):
        TransformersBackbone('no-such-owner/no-such-network')


def test_without_transformers_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ImportError, match='pip install transformers'):
        TransformersBackbone(config=RESNET)
