import pytest
import timm
import torch
import torchvision

from openlab.backbones.regnet import _SIZES, RegNet, stage_sizes
from tests.backbones.parity import assert_equal_to_peer, count, key_map


def test_regnet_equals_torchvision_with_the_same_weights():
    peer = torchvision.models.regnet_y_400mf(num_classes=7)
    assert_equal_to_peer(RegNet('y_400mf'), peer, key_map(RegNet, 'torchvision'), size=64)


@pytest.mark.parametrize(('name', 'size'), [('regnetx_002', 'x_200mf'), ('regnety_002', 'y_200mf')])
def test_regnet_equals_timm_with_the_same_weights(name, size):
    peer = timm.create_model(name, num_classes=7)
    assert_equal_to_peer(RegNet(size), peer, key_map(RegNet, 'timm'), size=64)


@pytest.mark.parametrize('size', [s for s in _SIZES if s != 'y_128gf'])
def test_parameter_count_equals_timm(size):
    kind, flops = size.split('_')
    number = float(flops[:-2]) * (10 if flops.endswith('gf') else 0.01)
    with torch.device('meta'):
        peer = timm.create_model(f'regnet{kind}_{round(number):03d}', num_classes=0)
        assert count(RegNet(size)) == count(peer)


def test_parameter_count_of_the_largest_is_the_published_one():
    weights = torchvision.models.RegNet_Y_128GF_Weights.DEFAULT
    with torch.device('meta'):
        net = RegNet('y_128gf')
    assert count(net) == weights.meta['num_params'] - 1000 * (net.out_channels[0] + 1)


def test_weights_of_openmmlab_that_read_bgr_come_to_read_rgb():
    torch.manual_seed(0)
    kernel, rgb = torch.randn(8, 3, 3, 3), torch.randn(1, 3, 8, 8)
    state = {'conv1.weight': kernel, 'layer1.0.conv3.weight': torch.zeros(1)}
    ours = key_map(RegNet, 'openmmlab', state).apply(state)['stem.conv.weight']
    expected = torch.nn.functional.conv2d(rgb.flip(1), kernel)
    torch.testing.assert_close(torch.nn.functional.conv2d(rgb, ours), expected)


def test_widths_follow_the_line_in_powers_of_the_step():
    # widths on the line: 16, 24, 32, 40, 48; nearest powers of 2 times 16: 16, 32, 32, 32, 64
    assert stage_sizes(5, 16, 8.0, 2.0, 8) == [(16, 1), (32, 3), (64, 1)]
    # 24.5 groups of 16 in the last stage of X-400MF
    assert stage_sizes(22, 24, 24.48, 2.54, 16)[-1] == (384, 12)
    assert stage_sizes(22, 24, 24.48, 2.54, 16, round_half_up=True)[-1] == (400, 12)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = RegNet('x_200mf', out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [24, 56, 152, 368]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'x_5gf'}, "not 'x_5gf'"), ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        RegNet(**arguments)
