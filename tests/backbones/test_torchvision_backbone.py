import pytest
import torch
import torchvision

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.torchvision_backbone import TorchvisionBackbone
from openlab.engine.loading import load_weights
from openlab.heads.linear_head import LinearHead
from tests.backbones.outside import (
    assert_learns_and_returns_from_disk,
    assert_maps_as_promised,
    assert_serves_detectors_and_segmentors,
)

NARROW = {'name': 'mobilenet_v2', 'options': {'width_mult': 0.25}}
VIT = {'name': 'vit_b_16', 'image_size': 32}


@pytest.mark.parametrize('name', ['resnet18', 'shufflenet_v2_x0_5'])
def test_the_last_map_and_a_linear_head_are_torchvisions_classifier(name):
    peer = torchvision.models.get_model(name, num_classes=7)
    backbone = TorchvisionBackbone(name)
    ours = ImageClassifier(backbone, head=LinearHead(7, backbone.out_channels[-1]))
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        with torch.no_grad():
            torch.testing.assert_close(ours.train(mode)(images), peer.train(mode)(images),
                                       rtol=1e-5, atol=1e-6)


def test_pooled_features_and_a_linear_head_are_torchvisions_classifier():
    peer = torchvision.models.mobilenet_v3_small(num_classes=7).eval()
    backbone = TorchvisionBackbone('mobilenet_v3_small', output='pooled')
    ours = ImageClassifier(backbone, head=LinearHead(7, backbone.out_channels[-1])).eval()
    assert backbone.out_channels == (1024,)
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), peer(images))


def test_maps_of_named_nodes_are_those_of_the_modules():
    peer = torchvision.models.resnet18().eval()
    ours = TorchvisionBackbone('resnet18', nodes=('layer2', 'layer4.0')).eval()
    load_weights(ours, peer.state_dict(), min_matched=1.0)
    images = torch.randn(1, 3, 64, 64)
    kept = {}
    peer.layer2.register_forward_hook(lambda *a: kept.update(layer2=a[2]))
    peer.layer4[0].register_forward_hook(lambda *a: kept.update(layer4=a[2]))
    with torch.no_grad():
        peer(images)
        first, second = ours(images)
    assert torch.equal(first, kept['layer2']) and torch.equal(second, kept['layer4'])


def test_tokens_become_a_map():
    peer = torchvision.models.vit_b_16(image_size=32).eval()
    ours = TorchvisionBackbone(**VIT).eval()
    load_weights(ours, peer.state_dict())
    kept = []
    peer.encoder.register_forward_hook(lambda *a: kept.append(a[2]))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        peer(images)
        found = ours(images)[0]
    assert torch.equal(found.flatten(2).transpose(1, 2), kept[0][:, 1:])
    assert ours.strides == (16,)
    with pytest.raises(ValueError, match='32 x 32 px only, not 64 x 32'):
        ours(torch.zeros(1, 3, 64, 32))


def test_maps_with_channels_last_come_with_channels_first():
    backbone = TorchvisionBackbone('swin_t', out_stages=(2, 3, 4, 5))
    assert backbone.out_channels == (96, 192, 384, 768)
    assert_maps_as_promised(backbone)


@pytest.mark.slow
@pytest.mark.parametrize('name', torchvision.models.list_models(module=torchvision.models))
def test_every_classifier_of_torchvision_is_a_backbone(name):
    with torch.device('meta'):
        backbone = TorchvisionBackbone(name)
        size = backbone.image_size or 256
        found = backbone(torch.empty(2, 3, size, size))[0]
    assert found.shape[1] == backbone.out_channels[0] >= 160
    assert abs(size / found.shape[2] / backbone.strides[0] - 1) < 0.35
    assert backbone.strides[0] in (14, 16, 32)


@pytest.mark.parametrize(('name', 'channels'), [
    ('resnet50', (256, 512, 1024, 2048)),
    ('mobilenet_v2', (24, 32, 96, 1280)),
    ('densenet121', (256, 512, 1024, 1024)),
    ('convnext_tiny', (96, 192, 384, 768)),
])
def test_a_stage_ends_before_the_next_one_widens_its_maps(name, channels):
    with torch.device('meta'):
        assert TorchvisionBackbone(name, out_stages=(2, 3, 4, 5)).out_channels == channels


def test_regnets_build_without_memory_though_they_read_their_widths_from_a_tensor():
    with torch.device('meta'):
        backbone = TorchvisionBackbone('regnet_y_400mf', out_stages=(3, 4, 5))
    assert backbone.out_channels == (104, 208, 440)
    assert all(p.is_meta for p in backbone.parameters())


def test_torchvision_networks_serve_detectors_and_segmentors():
    assert_serves_detectors_and_segmentors({'type': 'TorchvisionBackbone', **NARROW})


def test_torchvision_networks_learn_and_return_from_disk():
    assert_learns_and_returns_from_disk(TorchvisionBackbone(**NARROW, out_stages=(3, 5)))


def test_a_classifier_of_convolutions_gives_features_as_its_last_map():
    assert TorchvisionBackbone('squeezenet1_1').out_channels == (512,)
    with pytest.raises(ValueError, match='no linear layer at its end'):
        TorchvisionBackbone('squeezenet1_1', output='pooled')


def test_preprocessing_is_that_of_the_weights():
    with torch.device('meta'):
        found = TorchvisionBackbone('resnet18').preprocessing
    assert found == {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375],
                     'resize': 256, 'crop': 224, 'interpolation': 'bilinear', 'backend': 'pillow'}


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'name': 'resnet5O'}, 'did you mean resnet50'),
    ({'name': 'fasterrcnn_resnet50_fpn'}, 'openlab has detectors and segmentors of its own'),
    ({'name': 'resnet18', 'out_stages': (7,)}, r'stride 128.*layer4.1.relu_1 \(stride 32'),
    ({'name': 'resnet18', 'nodes': ('layer5',)}, "no node 'layer5'"),
    ({'name': 'resnet18', 'nodes': ('fc',)}, 'which is no map'),
    ({'name': 'resnet18', 'nodes': ('layer1',), 'output': 'pooled'}, 'only one of'),
    ({'name': 'resnet18', 'image_size': 64}, 'any size'),
    ({'name': 'resnet18', 'pretrained': 'V3'}, 'has the weights IMAGENET1K_V1'),
])
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message), torch.device('meta'):
        TorchvisionBackbone(**arguments)


def test_weights_that_are_not_here_are_refused_offline(monkeypatch, tmp_path):
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    with pytest.raises(ValueError, match='OPENLAB_OFFLINE is set; unset it once to download'):
        TorchvisionBackbone('resnet18', pretrained=True)
