import pytest
import timm
import torch
import torchvision

from openlab.backbones.mobilenet_v2 import MobileNetV2, round_channels
from tests.backbones.parity import assert_equal_to_peer, count, key_map


@pytest.mark.parametrize('width', [1.0, 0.5])
def test_mobilenet_v2_equals_torchvision_with_the_same_weights(width):
    peer = torchvision.models.mobilenet_v2(width_mult=width, num_classes=7, dropout=0)
    # 96 px: the statistics of a batch of few pixels would magnify rounding.
    assert_equal_to_peer(MobileNetV2(width), peer, key_map(MobileNetV2, 'torchvision'), size=96)


def test_mobilenet_v2_equals_timm_with_the_same_weights():
    peer = timm.create_model('mobilenetv2_100', num_classes=7)
    assert_equal_to_peer(MobileNetV2(), peer, key_map(MobileNetV2, 'timm'), size=96)


@pytest.mark.parametrize('width', [0.35, 0.75, 1.4])
def test_parameter_count_equals_torchvision(width):
    with torch.device('meta'):
        ours = MobileNetV2(width)
        peer = torchvision.models.mobilenet_v2(width_mult=width)
    assert count(ours) == count(peer.features)


def test_dilated_mobilenet_equals_timm_and_keeps_resolution():
    ours = MobileNetV2(output_stride=16)
    assert ours.strides == (16,)
    peer = timm.create_model('mobilenetv2_100', num_classes=7, output_stride=16)
    assert_equal_to_peer(ours, peer, key_map(MobileNetV2, 'timm'), size=96)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = MobileNetV2(0.5, last_channels=0, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 16, 48, 160]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


def test_small_images_keep_their_resolution_in_the_stem():
    assert MobileNetV2(0.35, stem_stride=1, out_stages=(1, 5)).strides == (1, 16)


def test_channels_round_to_the_nearest_multiple_but_lose_no_more_than_a_tenth():
    assert [round_channels(c) for c in (3, 11, 12, 20, 26.4)] == [8, 16, 16, 24, 24]


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match='within 1 to 5'):
        MobileNetV2(out_stages=(0,))
