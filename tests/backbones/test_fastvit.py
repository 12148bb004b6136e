import pytest
import timm
import torch
from timm.layers import LayerNorm2d
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.utils.model import reparameterize_model

from openlab.backbones.fastvit import FastViT
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'channels': (4, 8, 16, 32), 'num_blocks': (1, 1, 2, 2), 'mlp_ratio': 2}
SIZES = ['t8', 't12', 's12', 'sa12', 'sa24', pytest.param('sa36', marks=pytest.mark.slow), 'ma36',
         'mci0', 'mci1', 'mci2', 'mci3', 'mci4']


def small_peer(with_attention, num_classes=7):
    last = 'attention' if with_attention else 'repmixer'
    return FastVit(
        layers=(1, 1, 2, 2), embed_dims=(4, 8, 16, 32), mlp_ratios=(2,) * 4,
        token_mixers=('repmixer', 'repmixer', 'repmixer', last),
        pos_embs=(None, None, None, RepConditionalPosEnc if with_attention else None),
        num_classes=num_classes)


@pytest.mark.parametrize('with_attention', [False, True])
def test_fastvit_equals_timm_with_the_same_weights(with_attention):
    ours = FastViT(**SMALL, with_attention=with_attention, output='expanded')
    assert_equal_to_peer(ours, small_peer(with_attention), key_map(FastViT, 'timm'), size=80)


def mobile_clip_peer(num_stages):
    """MobileCLIP's network of four stages, or MobileCLIP2's of five."""
    if num_stages == 4:
        own = {'se_downsamples': (False, False, True, True)}
    else:
        own = {'norm_layer': LayerNorm2d, 'stem_use_scale_branch': False,
               'downsamples': (False, True, True, True, True), 'se_downsamples': (False,) * 5}
    attends = [i >= 3 for i in range(num_stages)]
    return FastVit(
        layers=(1,) * num_stages, embed_dims=(16, 32, 64, 128, 256)[:num_stages],
        mlp_ratios=(2,) * num_stages, lkc_use_act=True, num_classes=7,
        token_mixers=tuple('attention' if yes else 'repmixer' for yes in attends),
        pos_embs=tuple(RepConditionalPosEnc if yes else None for yes in attends), **own)


def mobile_clip(num_stages, **arguments):
    return FastViT('mci0' if num_stages == 4 else 'mci3', (16, 32, 64, 128, 256)[:num_stages],
                   (1,) * num_stages, 2, **arguments)


@pytest.mark.parametrize('num_stages', [4, 5])
def test_image_towers_of_mobile_clip_equal_timm_with_the_same_weights(num_stages):
    assert_equal_to_peer(mobile_clip(num_stages, output='expanded'), mobile_clip_peer(num_stages),
                         key_map(FastViT, 'timm'), size=144)


@pytest.mark.parametrize('num_stages', [4, 5])
def test_deployed_image_towers_of_mobile_clip_give_equal_outputs(num_stages):
    net = with_random_numbers(mobile_clip(num_stages, output='expanded')).double()
    images = torch.randn(2, 3, 128, 192).double()
    before = net(images)[0]
    net.deploy()
    torch.testing.assert_close(net(images)[0], before)
    other = mobile_clip(num_stages, output='expanded', deployed=True).double().eval()
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(images)[0], before)


def test_a_network_of_five_stages_gives_a_sixth_map():
    net = mobile_clip(5, out_stages=(2, 3, 4, 5, 6))
    maps = net(torch.randn(2, 3, 128, 64))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [16, 32, 64, 128, 256]
    assert [(128 // m.shape[2], 64 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]
    assert mobile_clip(5).strides == (64,)


@pytest.mark.parametrize('size', SIZES)
def test_names_and_shapes_of_every_size_are_those_of_timm(size):
    with torch.device('meta'):
        ours = FastViT(size, output='expanded')
        peer = timm.create_model(f'fastvit_{size}')
    assert_names_fit(ours, key_map(FastViT, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


def with_random_numbers(net):
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(('running_mean', 'bias')):
            tensor.normal_(std=0.5)
        elif name.endswith(('running_var', 'norm.weight', 'bn.weight', 'identity.weight')):
            tensor.uniform_(0.5, 1.5)
        elif 'scale' in name.rpartition('.')[2] or name.endswith('gamma'):
            tensor.uniform_(0.2, 0.8)
    return net.eval()


@pytest.mark.parametrize('with_attention', [False, True])
def test_deployed_form_gives_equal_outputs_and_is_smaller(with_attention):
    net = with_random_numbers(
        FastViT(**SMALL, with_attention=with_attention, output='expanded')).double()
    images = torch.randn(2, 3, 64, 96).double()
    before, parameters = net(images)[0], count(net)
    net.deploy()
    torch.testing.assert_close(net(images)[0], before)
    assert count(net) < parameters
    assert not [name for name in net.state_dict() if 'branches' in name or 'identity' in name]
    other = FastViT(**SMALL, with_attention=with_attention, output='expanded', deployed=True)
    other = other.double().eval()
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(images)[0], before)


def test_deployed_form_equals_that_of_timm():
    peer = with_random_numbers(small_peer(True))
    ours = FastViT(**SMALL, with_attention=True, output='expanded').eval()
    names = key_map(FastViT, 'timm')
    ours.load_state_dict({k: v for k, v in names.apply(peer.state_dict()).items() if k[0] != '.'})
    ours.deploy()
    folded = names.apply(reparameterize_model(peer).state_dict())
    folded = {k: v for k, v in folded.items() if k[0] != '.'}
    assert folded.keys() == ours.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, folded[name], rtol=1e-4, atol=1e-5)


def test_maps_of_all_stages_equal_timm():
    peer = with_random_numbers(small_peer(True))
    ours = FastViT(**SMALL, with_attention=True, out_stages=(2, 3, 4, 5)).eval()
    state = key_map(FastViT, 'timm').apply(peer.state_dict())
    ours.load_state_dict({k: v for k, v in state.items() if k in ours.state_dict()})
    images = torch.randn(1, 3, 64, 96)
    expected = peer.forward_intermediates(images, intermediates_only=True)
    for got, theirs in zip(ours(images), expected, strict=True):
        torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-4)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = FastViT(**SMALL, with_attention=True, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 96, 64))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [4, 8, 16, 32]
    assert [(96 // m.shape[2], 64 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_the_expanded_map_has_twice_the_channels():
    net = FastViT(**SMALL, output='expanded').eval()
    assert net.out_channels == (64,)
    assert net(torch.randn(1, 3, 64, 64))[0].shape == (1, 64, 2, 2)


def test_stages_after_the_last_wanted_one_are_not_built():
    assert len(FastViT(**SMALL, out_stages=(3,)).stages) == 2


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 's24'}, "not 's24'"), ({'output': 'map'}, "not 'map'"),
    ({'channels': (8, 16)}, 'each of the 4 stages'),
    ({'size': 'mci3', 'channels': (32, 64, 128, 256)}, 'each of the 4 stages'),
    ({'size': 'mci3', 'output': 'expanded', 'out_stages': (5,)}, 'stage 6 only'),
    ({'channels': (8, 16, 24, 48)}, 'a multiple of those before'),
    ({'size': 'sa12', 'channels': (5, 10, 20, 40)}, 'multiples of 32'),
    ({'output': 'expanded', 'out_stages': (4,)}, 'stage 5 only'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        FastViT(**arguments)
