import pytest
import timm
import torch

from openlab.backbones.res2net import Res2Net
from tests.backbones.parity import assert_equal_to_peer, count, key_map


def test_res2net_equals_timm_with_the_same_weights():
    peer = timm.models.resnet.ResNet(
        timm.models.res2net.Bottle2neck, (2, 1, 1, 1), base_width=14, num_classes=7,
        block_args={'scale': 8})
    ours = Res2Net(num_blocks=(2, 1, 1, 1), slice_width=14, num_slices=8)
    assert_equal_to_peer(ours, peer, key_map(Res2Net, 'timm'), size=64)


def test_res2net_d_equals_timm_with_the_same_weights():
    peer = timm.models.resnet.ResNet(
        timm.models.res2net.Bottle2neck, (2, 1, 1, 1), base_width=14, num_classes=7,
        block_args={'scale': 8}, stem_type='deep', stem_width=32, avg_down=True)
    ours = Res2Net(num_blocks=(2, 1, 1, 1), slice_width=14, num_slices=8, stem='deep',
                   avg_down=True)
    deep = next(m for m in Res2Net.weights if m.source == 'timm' and m.matches(peer.state_dict()))
    assert_equal_to_peer(ours, peer, deep, size=64)


@pytest.mark.parametrize(('name', 'arguments'), [
    ('res2net50_26w_4s', {}),
    ('res2net50_26w_8s', {'num_slices': 8}),
    ('res2net101_26w_4s', {'depth': 101}),
])
def test_names_and_shapes_are_those_of_timm(name, arguments):
    with torch.device('meta'):
        ours, peer = Res2Net(**arguments), timm.create_model(name)
    renamed = key_map(Res2Net, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}
    assert count(ours) == count(peer) - count(peer.fc)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = Res2Net(num_blocks=(1, 1, 1, 1), base_channels=8, slice_width=4,
                  out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [32, 64, 128, 256]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'depth': 18}, 'not 18'), ({'num_slices': 1}, 'at least 2'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        Res2Net(**arguments)
