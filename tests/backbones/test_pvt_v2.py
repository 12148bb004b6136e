import pytest
import timm
import torch
from timm.models.pvt_v2 import PyramidVisionTransformerV2

from openlab.backbones.pvt_v2 import PVTv2
from tests.backbones.parity import assert_equal_to_peer, count, key_map


@pytest.mark.parametrize('is_linear', [False, True])
def test_pvt_v2_equals_timm_with_the_same_weights(is_linear):
    peer = PyramidVisionTransformerV2(
        embed_dims=(8, 16, 16, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4),
        mlp_ratios=(2, 2, 2, 2), linear=is_linear, num_classes=7)
    ours = PVTv2(embed_dims=(8, 16, 16, 32), num_blocks=(1, 1, 1, 1), num_heads=(1, 2, 2, 4),
                 mlp_ratios=(2, 2, 2, 2), is_linear=is_linear, drop_path=0)
    assert_equal_to_peer(ours, peer, key_map(PVTv2, 'timm'), size=64)


@pytest.mark.parametrize('size', ['b0', 'b1', 'b2', 'b2_li', 'b3', 'b4', 'b5'])
def test_names_of_all_sizes_equal_timm(size):
    with torch.device('meta'):
        peer = timm.create_model(f'pvt_v2_{size}', num_classes=0)
        ours = PVTv2(size.split('_')[0], is_linear='li' in size)
    assert count(ours) == count(peer)
    assert set(key_map(PVTv2, 'timm').apply(peer.state_dict())) == set(ours.state_dict())


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = PVTv2(embed_dims=(8, 16, 24, 32), num_blocks=(1, 1, 1, 1), num_heads=(1, 2, 2, 4),
                out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 24, 32]
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'b6'}, "not 'b6'"), ({'num_heads': (1, 2)}, 'each stage needs an entry'),
    ({'out_stages': (6,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        PVTv2(**arguments)
