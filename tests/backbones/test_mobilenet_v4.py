import pytest
import timm
import torch
from torch import nn

from openlab.backbones.mobilenet_v4 import (
    MobileAttention,
    MobileNetV4,
    UniversalInvertedBottleneck,
)
from openlab.heads.mlp_head import MLPHead
from tests.backbones.parity import assert_equal_to_peer, count

SIZES = ['conv_small', 'conv_medium', 'conv_large', 'hybrid_medium', 'hybrid_large']
# The head normalises over the batch, which for two images magnifies rounding.
IMAGES = {'size': 64, 'batch': 6, 'elementwise': False}


def fitting_map(peer):
    (fitting,) = [m for m in MobileNetV4.weights if m.matches(peer.state_dict())]
    return fitting


def head(backbone, act=nn.ReLU):
    return MLPHead(7, (1280,), backbone.out_channels[-1], act={'type': act},
                   norm={'type': nn.BatchNorm1d})


def narrow_peer(size, width, **arguments):
    return timm.models.mobilenetv3._gen_mobilenet_v4(
        f'mobilenetv4_{size}', width, num_classes=7, **arguments)


@pytest.mark.parametrize('size', ['conv_small', 'conv_medium', 'hybrid_medium'])
def test_narrow_sizes_equal_timm_with_the_same_weights(size):
    peer, ours = narrow_peer(size, 0.35), MobileNetV4(size, 0.35)
    assert_equal_to_peer(ours, peer, fitting_map(peer), **IMAGES, head=head(ours))


@pytest.mark.parametrize(('pool', 'theirs'), [('mean', 'avg'), ('blur', 'blurpc')])
def test_a_network_that_pools_instead_of_striding_equals_timm_with_the_same_weights(pool, theirs):
    peer = narrow_peer('conv_medium', 0.35, aa_layer=theirs)
    ours = MobileNetV4('conv_medium', 0.35, pool=pool)
    assert_equal_to_peer(ours, peer, fitting_map(peer), **IMAGES, head=head(ours))


@pytest.mark.slow
@pytest.mark.parametrize('size', ['conv_large', 'hybrid_large'])
def test_the_large_sizes_equal_timm_with_the_same_weights(size):
    peer = timm.create_model(f'mobilenetv4_{size}', num_classes=7)
    ours = MobileNetV4(size)
    act = nn.GELU if size == 'hybrid_large' else nn.ReLU
    assert_equal_to_peer(ours, peer, fitting_map(peer), **IMAGES, head=head(ours, act))


@pytest.mark.parametrize('size', SIZES)
def test_names_and_shapes_are_those_of_timm(size):
    with torch.device('meta'):
        ours, peer = MobileNetV4(size), timm.create_model(f'mobilenetv4_{size}')
    renamed = fitting_map(peer).apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}
    outside = count(peer.conv_head) + count(peer.norm_head) + count(peer.classifier)
    assert count(ours) == count(peer) - outside


def test_queries_of_all_heads_meet_one_key_and_one_value():
    torch.manual_seed(0)
    block = MobileAttention(6, num_heads=2, head_dim=3).eval()
    x = torch.randn(1, 6, 2, 3)
    tokens = (x / (1 + block.norm.eps)**0.5).flatten(2)[0].T
    project = {n: getattr(block, n)[-1].weight[:, :, 0, 0] for n in ('key', 'value')}
    key, value = tokens @ project['key'].T, tokens @ project['value'].T
    heads = []
    for rows in block.query.weight[:, :, 0, 0].chunk(2):
        heads.append((tokens @ rows.T @ key.T / 3**0.5).softmax(1) @ value)
    out = torch.cat(heads, 1) @ block.output.weight[:, :, 0, 0].T
    torch.testing.assert_close(block(x), x + out.T.reshape(1, 6, 2, 3))


@pytest.mark.parametrize('size', ['conv_small', 'hybrid_medium'])
def test_maps_of_all_stages_have_the_promised_channels_and_strides(size):
    net = MobileNetV4(size, 0.25, with_last=False, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels)
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


def test_sizes_that_no_stride_divides_work_with_attention():
    (out,) = MobileNetV4('hybrid_medium', 0.25)(torch.randn(2, 3, 75, 50))
    assert out.shape == (2, 240, 3, 2)


def test_wrong_arguments_are_refused_with_what_is_accepted():
    with pytest.raises(ValueError, match="not 'small'"):
        MobileNetV4('small')
    with pytest.raises(ValueError, match='within 1 to 5'):
        MobileNetV4(out_stages=(0,))
    with pytest.raises(ValueError, match='four stages'):
        MobileNetV4(num_blocks=(1, 0, 1, 1))
    with pytest.raises(ValueError, match='no stride'):
        UniversalInvertedBottleneck(4, 4, 8, 0, 0, stride=2)
