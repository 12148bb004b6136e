import pytest
import timm
import torch
from timm.layers import GroupNorm1
from timm.models.metaformer import MetaFormer
from torch import nn

from openlab.backbones.poolformer import PoolFormer, PoolFormerBlock
from tests.backbones.parity import assert_equal_to_peer, count, key_map

SMALL = {'num_blocks': (1, 1, 2, 1), 'channels': (8, 16, 24, 32)}


def test_poolformer_equals_timm_with_the_same_weights():
    peer = MetaFormer(
        depths=SMALL['num_blocks'], dims=SMALL['channels'], num_classes=7, downsample_norm=None,
        mlp_act=nn.GELU, mlp_bias=True, norm_layers=GroupNorm1, layer_scale_init_values=1e-5,
        res_scale_init_values=None, use_mlp_head=False)
    ours = PoolFormer(**SMALL, output='mean')
    assert_equal_to_peer(ours, peer, key_map(PoolFormer, 'timm'), size=64)


@pytest.mark.parametrize('size', ['s12', 's24', 's36', 'm36', 'm48'])
def test_parameter_count_equals_timm(size):
    with torch.device('meta'):
        ours, peer = PoolFormer(size), timm.create_model(f'poolformer_{size}')
    assert count(ours) == count(peer) - count(peer.head.fc)


def test_a_constant_map_passes_the_local_mean_unchanged():
    block = PoolFormerBlock(2, layer_scale=1.0).eval()
    torch.nn.init.zeros_(block.fc2.weight)
    torch.nn.init.zeros_(block.fc2.bias)
    x = torch.tensor([1.0, 3.0])[None, :, None, None].expand(1, 2, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = PoolFormer(**SMALL, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 24, 32]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'l12'}, "not 'l12'"),
    ({'output': 'map'}, "not 'map'"),
    ({'output': 'mean', 'out_stages': (4,)}, 'stage 5 only'),
])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        PoolFormer(**arguments)
