import pytest
import timm
import torch

from openlab.backbones.repvgg import RepVGG, RepVGGBlock
from tests.backbones.parity import assert_equal_to_peer, count, key_map

SIZES = ['a1', 'a2', 'b0', 'b1g4', 'b2', 'b3', 'd2se']


def test_repvgg_equals_timm_with_the_same_weights():
    peer = timm.create_model('repvgg_a0', num_classes=7)
    assert_equal_to_peer(RepVGG('a0'), peer, key_map(RepVGG, 'timm'), size=64)


@pytest.mark.parametrize('size', SIZES)
def test_names_and_shapes_of_every_size_are_those_of_timm(size):
    with torch.device('meta'):
        ours, peer = RepVGG(size), timm.create_model(f'repvgg_{size}')
    renamed = key_map(RepVGG, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}


def with_random_statistics(net):
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(('running_mean', 'norm.bias')):
            tensor.normal_()
        elif name.endswith(('running_var', 'norm.weight')):
            tensor.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize('size', ['b1g4', 'd2se'])
def test_deployed_form_gives_equal_outputs_and_is_smaller(size):
    net = with_random_statistics(RepVGG(size, (1, 2, 2, 1), width=0.125)).double()
    images = torch.randn(2, 3, 64, 64).double()
    before, parameters = net(images)[0], count(net)
    net.deploy()
    torch.testing.assert_close(net(images)[0], before)
    assert count(net) < parameters
    assert not [name for name in net.state_dict() if 'branch' in name or 'identity' in name]


def test_folded_weights_load_into_a_network_built_deployed():
    net = with_random_statistics(RepVGG('a0', (1, 1, 1, 1), width=0.25))
    net.deploy()
    other = RepVGG('a0', (1, 1, 1, 1), width=0.25, deployed=True).eval()
    other.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(other(images)[0], net(images)[0])


def test_folded_block_equals_timm_folded():
    peer = timm.create_model('repvgg_a0', num_classes=7).eval()
    ours = RepVGG('a0').eval()
    mapped = key_map(RepVGG, 'timm')
    ours.load_state_dict({k: v for k, v in mapped.apply(peer.state_dict()).items()
                          if not k.startswith('..')})
    ours.deploy()
    peer.stem.reparameterize()
    folded = mapped.apply({f'stem.{k}': v for k, v in peer.stem.state_dict().items()})
    torch.testing.assert_close(folded['stem.fused.weight'], ours.stem.fused.weight)
    torch.testing.assert_close(folded['stem.fused.bias'], ours.stem.fused.bias)


def test_identity_branch_needs_equal_shapes():
    assert RepVGGBlock(8, 8).identity is not None
    assert RepVGGBlock(8, 8, stride=2).identity is None
    assert RepVGGBlock(8, 16).identity is None


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = RepVGG('a0', (1, 1, 1, 1), width=0.25, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [12, 24, 48, 320]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'c0'}, "not 'c0'"), ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        RepVGG(**arguments)
