import pytest
import timm
import torch
import torchvision
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from openlab.backbones.convnext import ConvNeXt, GlobalResponseNorm
from tests.backbones.parity import assert_equal_to_peer, count, key_map

SMALL = {'base_channels': 8, 'num_blocks': (1, 1, 2, 1)}
PEER = {'depths': (1, 1, 2, 1), 'dims': (8, 16, 32, 64), 'num_classes': 7}


def test_convnext_equals_torchvision_with_the_same_weights():
    peer = TorchvisionConvNeXt([
        CNBlockConfig(8, 16, 1), CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 2),
        CNBlockConfig(64, None, 1)], num_classes=7)
    assert_equal_to_peer(ConvNeXt(**SMALL), peer, key_map(ConvNeXt, 'torchvision'), size=64)


@pytest.mark.parametrize('conv_mlp', [False, True])
def test_convnext_equals_timm_with_the_same_weights(conv_mlp):
    peer = TimmConvNeXt(**PEER, conv_mlp=conv_mlp)
    torch.manual_seed(0)
    assert_equal_to_peer(ConvNeXt(**SMALL), peer, key_map(ConvNeXt, 'timm'), size=64)


def test_convnext_v2_equals_timm_with_the_same_weights():
    peer = TimmConvNeXt(**PEER, use_grn=True, ls_init_value=None)
    assert_equal_to_peer(ConvNeXt(**SMALL, version=2), peer, key_map(ConvNeXt, 'timm'), size=64)


@pytest.mark.parametrize('size', ['tiny', 'small', 'base', 'large'])
def test_parameter_count_equals_torchvision(size):
    with torch.device('meta'):
        ours, peer = ConvNeXt(size), getattr(torchvision.models, f'convnext_{size}')()
    assert count(ours) == count(peer) - count(peer.classifier[2])


@pytest.mark.parametrize('size', ['atto', 'femto', 'pico', 'nano', 'huge'])
def test_parameter_count_of_version_2_equals_timm(size):
    with torch.device('meta'):
        ours, peer = ConvNeXt(size, version=2), timm.create_model(f'convnextv2_{size}')
    assert count(ours) == count(peer) - count(peer.head.fc)


def test_response_norm_equals_the_formula_by_hand():
    norm = GlobalResponseNorm(2)
    torch.nn.init.constant_(norm.weight, 2.0)
    torch.nn.init.constant_(norm.bias, 1.0)
    x = torch.tensor([[[[3.0, 0.5]], [[4.0, 0.0]]]])  # energies 5 and 0.5, their mean 2.75
    expected = x + 1 + 2 * x * torch.tensor([5 / 2.75, 0.5 / 2.75])
    torch.testing.assert_close(norm(x), expected)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = ConvNeXt(**SMALL, output='maps', out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 32, 64]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'mini'}, "not 'mini'"),
    ({'output': 'map'}, "not 'map'"),
    ({'out_stages': (5,)}, "needs output='maps'"),
    ({'output': 'maps', 'out_stages': (1,)}, 'within 2 to 5'),
])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**arguments)
