import pytest
import torch
import torchvision

from openlab.backbones.shufflenet_v2 import ShuffleBlock, ShuffleNetV2
from tests.backbones.parity import assert_equal_to_peer, count, key_map


def test_shufflenet_v2_equals_torchvision_with_the_same_weights():
    peer = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    assert_equal_to_peer(ShuffleNetV2(0.5), peer, key_map(ShuffleNetV2, 'torchvision'), size=96)


@pytest.mark.parametrize('width', [0.5, 1.0, 1.5, 2.0])
def test_parameter_count_equals_torchvision(width):
    with torch.device('meta'):
        ours = ShuffleNetV2(width)
        peer = getattr(torchvision.models, f'shufflenet_v2_x{width}'.replace('.', '_'))()
    assert count(ours) == count(peer) - count(peer.fc)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = ShuffleNetV2(0.5, last_channels=0, out_stages=(3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [48, 96, 192]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [8, 16, 32]


def test_the_untouched_half_ends_in_every_second_channel():
    block = ShuffleBlock(8, 8).eval()
    x = torch.rand(1, 8, 4, 4)
    assert torch.equal(block(x)[:, ::2], x[:, :4])


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'width': 0.75}, 'not 0.75'), ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShuffleNetV2(**arguments)


def test_a_block_of_stride_1_that_changes_channels_is_refused():
    with pytest.raises(ValueError, match='8 in, 16 out'):
        ShuffleBlock(8, 16)
