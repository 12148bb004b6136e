import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.timm_backbone import TimmBackbone
from openlab.engine.loading import load_weights
from openlab.heads.linear_head import LinearHead
from openlab.zoo.recipe import apply_preprocessing
from tests.backbones.outside import (
    assert_learns_and_returns_from_disk,
    assert_maps_as_promised,
    assert_serves_detectors_and_segmentors,
)

SWIN = {'name': 'swin_tiny_patch4_window7_224', 'image_size': 64,
        'options': {'embed_dim': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 2, 2),
                    'window_size': 2}}


@pytest.mark.parametrize('name', ['test_resnet', 'test_efficientnet', 'test_convnext'])
def test_maps_equal_those_of_timm_with_the_same_weights(name):
    peer = timm.create_model(name).eval()
    ours = TimmBackbone(name, out_indices=(1, -1)).eval()
    load_weights(ours, peer.state_dict())  # of the whole classifier
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = peer.forward_intermediates(images, intermediates_only=True)
        maps = ours(images)
    assert torch.equal(maps[-1], expected[-1])
    assert torch.equal(maps[0], expected[1])


@pytest.mark.parametrize('name', ['test_resnet', 'test_efficientnet', 'test_vit'])
def test_pooled_features_and_a_linear_head_are_timms_classifier(name):
    peer = timm.create_model(name, num_classes=7).eval()
    backbone = TimmBackbone(name, output='pooled')
    ours = ImageClassifier(backbone, head=LinearHead(7, backbone.out_channels[-1])).eval()
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        assert torch.equal(ours(images), peer(images))


def test_maps_of_networks_with_channels_last_come_with_channels_first():
    backbone = TimmBackbone(**SWIN, out_stages=(2, 3, 4, 5))
    assert backbone.out_channels == (16, 32, 64, 128)
    assert_maps_as_promised(backbone)
    assert backbone.no_weight_decay() <= dict(backbone.named_parameters()).keys()


def test_timm_networks_serve_detectors_and_segmentors():
    assert_serves_detectors_and_segmentors({'type': 'TimmBackbone', 'name': 'test_resnet'})


def test_timm_networks_learn_and_return_from_disk():
    assert_learns_and_returns_from_disk(TimmBackbone('test_convnext', out_indices=(0, 1)))


def test_dilation_is_an_option_of_the_network():
    backbone = TimmBackbone('resnet10t', out_indices=(-2, -1), options={'output_stride': 8})
    assert backbone.strides == (8, 8)
    assert_maps_as_promised(backbone)


def test_a_network_of_one_size_says_so_and_can_be_built_for_another():
    small = {'depth': 2, 'embed_dim': 48}
    with pytest.raises(ValueError, match='224 x 224 px only, not 64 x 64'):
        TimmBackbone('vit_tiny_patch16_224', options=small)(torch.zeros(1, 3, 64, 64))
    assert_maps_as_promised(TimmBackbone('vit_tiny_patch16_224', image_size=64, options=small))
    assert_maps_as_promised(TimmBackbone(
        'vit_tiny_patch16_224', options={**small, 'dynamic_img_size': True}), (64, 32))


def test_weights_come_from_a_file_where_one_is_named(tmp_path):
    state = timm.create_model('test_resnet').state_dict()
    save_file(state, tmp_path / 'weights.safetensors')
    ours = TimmBackbone('test_resnet', pretrained=str(tmp_path / 'weights.safetensors'))
    assert torch.equal(ours.net.conv1[0].weight, state['conv1.0.weight'])


def test_preprocessing_is_what_timm_says_and_goes_into_a_config():
    cfg = timm.get_pretrained_cfg('resnet50.a1_in1k')
    with torch.device('meta'):
        found = TimmBackbone('resnet50.a1_in1k').preprocessing
    assert found['crop'] == cfg.test_input_size[-1] == 288
    assert found['resize'] == 288 / cfg.test_crop_pct
    assert found['interpolation'] == cfg.interpolation == 'bicubic'
    config = {'model': {}, 'val_dataloader': {'dataset': {'pipeline': []}}}
    apply_preprocessing(config, found)
    assert config['model']['preprocessor']['mean'] == [123.675, 116.28, 103.53]
    assert config['val_dataloader']['dataset']['pipeline'][1]['interpolation'] == 'bicubic'


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'name': 'resnet5O'}, 'did you mean resnet50'),
    ({'name': 'test_resnet', 'out_stages': (7,)}, 'stride 128.*has 5 maps.*2, 4, 8, 16, 32'),
    ({'name': 'test_resnet', 'out_stages': (5,), 'out_indices': (1,)}, 'not both'),
    ({'name': 'test_resnet', 'out_indices': (5,)}, 'has 5 maps'),
    ({'name': 'test_resnet', 'out_indices': (2, 1)}, 'must rise'),
    ({'name': 'test_resnet', 'output': 'pooled', 'out_stages': (5,)}, "output='maps'"),
    ({'name': 'hf-hub:timm/resnet18'}, 'pretrained=True'),
])
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**arguments)


def test_without_timm_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match='TimmBackbone needs timm: pip install timm'):
        TimmBackbone('resnet50')


def test_importing_the_wrappers_imports_no_library():
    code = ('import sys, openlab.backbones.timm_backbone, openlab.backbones.transformers_backbone, '
            'openlab.backbones.torchvision_backbone; '
            'print({"timm", "transformers", "torchvision"} & set(sys.modules))')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == 'set()'
