import pytest
import timm
import torch
from torch import nn

from openlab.backbones.darknet import DarkNet
from tests.backbones.parity import assert_equal_to_peer, count, key_map

TIMM_ACT = {'type': nn.LeakyReLU}


def test_darknet_equals_timm_with_the_same_weights():
    peer = timm.create_model('darknet21', num_classes=7)
    assert_equal_to_peer(DarkNet(21, act=TIMM_ACT), peer, key_map(DarkNet, 'timm'), size=64)


def test_names_and_shapes_are_those_of_timm():
    with torch.device('meta'):
        ours, peer = DarkNet(), timm.create_model('darknet53')
    renamed = key_map(DarkNet, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}
    assert count(ours) == count(peer) - count(peer.head)


def test_names_of_openmmlab_lead_to_ours():
    names = {
        'conv1.conv.weight': 'stem.conv.weight',
        'conv1.bn.running_mean': 'stem.norm.running_mean',
        'conv_res_block1.conv.conv.weight': 'stages.0.down.conv.weight',
        'conv_res_block5.conv.bn.bias': 'stages.4.down.norm.bias',
        'conv_res_block3.res7.conv1.conv.weight': 'stages.2.blocks.7.conv1.conv.weight',
        'conv_res_block1.res0.conv2.bn.weight': 'stages.0.blocks.0.conv2.norm.weight'}
    state = dict.fromkeys(names, torch.zeros(1))
    assert list(key_map(DarkNet, 'openmmlab', state).apply(state)) == list(names.values())
    with torch.device('meta'):
        assert set(names.values()) <= set(DarkNet().state_dict())


def test_the_activation_leaks_a_tenth_as_in_yolov3():
    net = DarkNet(num_blocks=(1,), base_channels=1, out_stages=(1,))
    assert net.stem.act(torch.tensor(-3.0)).item() == pytest.approx(-0.3)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = DarkNet(num_blocks=(1, 1, 1, 1, 1), base_channels=4, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 32, 64, 128]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'depth': 19}, 'not 19'), ({'out_stages': (5, 6)}, 'within 1 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        DarkNet(**arguments)
