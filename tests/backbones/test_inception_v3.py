import pytest
import timm
import torch
import torchvision

from openlab.backbones.inception_v3 import InceptionV3
from tests.backbones.parity import assert_equal_to_peer, count, key_map


def test_inception_equals_torchvision_with_the_same_weights():
    peer = torchvision.models.inception_v3(
        num_classes=7, aux_logits=False, init_weights=False, dropout=0)
    assert_equal_to_peer(InceptionV3(), peer, key_map(InceptionV3, 'torchvision'), size=107)


def test_names_and_shapes_are_those_of_timm():
    with torch.device('meta'):
        ours, peer = InceptionV3(), timm.create_model('inception_v3')
    renamed = key_map(InceptionV3, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}
    assert count(ours) == count(peer) - count(peer.fc)


def test_the_auxiliary_classifier_is_dropped_with_its_reason():
    with torch.device('meta'):
        peer = torchvision.models.inception_v3(aux_logits=True, init_weights=False)
        ours = InceptionV3()
    renames = key_map(InceptionV3, 'torchvision')
    theirs = peer.state_dict()
    dropped = renames.dropped(theirs)
    assert set(dropped) == {k for k in theirs if k.startswith('AuxLogits.')}
    assert {k for k in renames.apply(theirs) if not k.startswith('..')} == set(ours.state_dict())


def test_maps_have_the_sizes_of_the_papers_table():
    net = InceptionV3(width=1 / 16, out_stages=(1, 2, 3, 4, 5)).eval()
    maps = net(torch.randn(1, 3, 299, 299))
    assert [m.shape[2] for m in maps] == [147, 71, 35, 17, 8]
    assert [m.shape[1] for m in maps] == list(net.out_channels)
    assert InceptionV3(out_stages=(1, 2, 3, 4, 5)).out_channels == (64, 192, 288, 768, 2048)


def test_padded_maps_have_the_promised_channels_and_strides():
    net = InceptionV3(width=1 / 16, with_padding=True, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels)
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


def test_wrong_stages_are_refused():
    with pytest.raises(ValueError, match='within 1 to 5'):
        InceptionV3(out_stages=(0,))
