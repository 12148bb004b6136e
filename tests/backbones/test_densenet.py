import pytest
import timm
import torch
import torchvision

from openlab.backbones.densenet import DenseNet
from tests.backbones.parity import assert_equal_to_peer, count, key_map

SMALL = {'num_layers': (2, 3, 2, 2), 'growth': 8, 'stem_channels': 16}


def test_densenet_equals_torchvision_with_the_same_weights():
    peer = torchvision.models.DenseNet(8, (2, 3, 2, 2), 16, num_classes=7)
    assert_equal_to_peer(DenseNet(**SMALL), peer, key_map(DenseNet, 'torchvision'), size=64)


def test_densenet_equals_timm_with_the_same_weights():
    peer = timm.models.densenet.DenseNet(8, (2, 3, 2, 2), 7)
    assert_equal_to_peer(DenseNet(**SMALL), peer, key_map(DenseNet, 'timm'), size=64)


@pytest.mark.parametrize('depth', [121, 161, 169, 201])
def test_names_of_every_size_are_those_of_torchvision(depth):
    with torch.device('meta'):
        ours, peer = DenseNet(depth), getattr(torchvision.models, f'densenet{depth}')()
    renamed = key_map(DenseNet, 'torchvision').apply(peer.state_dict())
    assert {k for k in renamed if not k.startswith('..')} == set(ours.state_dict())
    assert count(ours) == count(peer.features)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = DenseNet(**SMALL, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [32, 40, 36, 34]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


def test_nothing_after_the_last_wanted_stage_is_built():
    net = DenseNet(**SMALL, out_stages=(2, 3))
    assert len(net.stages) == 2
    assert len(net.transitions) == 1
    assert not hasattr(net, 'norm')


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'depth': 100}, 'not 100'), ({'out_stages': (6,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        DenseNet(**arguments)
