import pytest
import timm
import torch
import torchvision
from torch import nn

from openlab.backbones.mobilenet_v3 import MobileNetV3
from openlab.engine.loading import load_weights
from openlab.heads.mlp_head import MLPHead
from tests.backbones.parity import assert_equal_to_peer, count

HIDDEN = {'large': 1280, 'small': 1024}
TORCHVISION_NORM = {'type': nn.BatchNorm2d, 'eps': 1e-3, 'momentum': 0.01}


def fitting_map(source, peer):
    return next(m for m in MobileNetV3.weights
                if m.source == source and m.matches(peer.state_dict()))


def head(backbone, size):
    return MLPHead(7, (HIDDEN[size],), backbone.out_channels[-1], act={'type': nn.Hardswish})


@pytest.mark.parametrize('size', ['large', 'small'])
def test_mobilenet_v3_equals_torchvision_with_the_same_weights(size):
    peer = getattr(torchvision.models, f'mobilenet_v3_{size}')(num_classes=7, dropout=0)
    ours = MobileNetV3(size, norm=TORCHVISION_NORM)
    assert_equal_to_peer(ours, peer, fitting_map('torchvision', peer), size=96,
                         head=head(ours, size))


@pytest.mark.parametrize('size', ['large', 'small'])
def test_mobilenet_v3_equals_timm_with_the_same_weights(size):
    peer = timm.create_model(f'mobilenetv3_{size}_100', num_classes=7)
    ours = MobileNetV3(size)
    assert_equal_to_peer(ours, peer, fitting_map('timm', peer), size=96, head=head(ours, size))


@pytest.mark.parametrize('size', ['large', 'small'])
@pytest.mark.parametrize('width', [0.5, 0.75])
def test_parameter_count_of_narrow_networks_equals_torchvision(size, width):
    with torch.device('meta'):
        peer = getattr(torchvision.models, f'mobilenet_v3_{size}')(width_mult=width)
        assert count(MobileNetV3(size, width)) == count(peer.features)


@pytest.mark.parametrize('size', ['small', 'large'])
def test_outputs_with_the_padding_of_tensorflow_equal_timm(size):
    torch.manual_seed(0)
    peer = timm.create_model(f'tf_mobilenetv3_{size}_100', num_classes=0).eval()
    ours = MobileNetV3(size, padding='same', norm={'type': nn.BatchNorm2d, 'eps': 1e-3}).eval()
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 67, 90)  # odd sizes, which both rules pad in another way
    with torch.no_grad():
        expected = peer.forward_features(images)
        (actual,) = ours(images)
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-4
    with pytest.raises(ValueError, match="padding is 'symmetric' or 'same'"):
        MobileNetV3(padding='valid')


@pytest.mark.parametrize('name', ['small_050', 'small_075', 'large_075'])
def test_parameter_count_of_networks_scaled_by_ratio_equals_timm(name):
    size, width = name.split('_')
    with torch.device('meta'):
        peer = timm.create_model(f'mobilenetv3_{name}')
        ours = MobileNetV3(size, int(width) / 100, scaling='ratio')
    assert count(ours) == count(peer) - count(peer.conv_head) - count(peer.classifier)


@pytest.mark.parametrize(('size', 'channels'), [
    ('large', [8, 16, 24, 56, 80]), ('small', [8, 8, 16, 24, 48])])
def test_maps_of_all_stages_have_the_promised_channels_and_strides(size, channels):
    net = MobileNetV3(size, 0.5, with_last=False, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == channels
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="not 'medium'"):
        MobileNetV3('medium')
    with pytest.raises(ValueError, match="not 'half'"):
        MobileNetV3(scaling='half')
