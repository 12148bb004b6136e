import pytest
import timm
import torch
import torchvision
from torch import nn

from openlab.backbones.vgg import VGG
from openlab.heads.mlp_head import MLPHead
from tests.backbones.parity import assert_equal_to_peer, count


@pytest.mark.parametrize(('name', 'arguments'), [
    ('vgg11', {'depth': 11, 'with_norm': False}), ('vgg13_bn', {'depth': 13})])
def test_vgg_equals_torchvision_with_the_same_weights(name, arguments):
    peer = getattr(torchvision.models, name)(num_classes=7, dropout=0)
    # The published linear layers of 4096 are most of the time; any width shows the same.
    peer.classifier[0] = torch.nn.Linear(512 * 49, 16)
    peer.classifier[3] = torch.nn.Linear(16, 12)
    peer.classifier[6] = torch.nn.Linear(12, 7)
    key_map = next(m for m in VGG.weights
                   if m.source == 'torchvision' and m.matches(peer.state_dict()))
    head = MLPHead(7, (16, 12), 512, grid=7)
    assert_equal_to_peer(VGG(**arguments), peer, key_map, size=64, head=head)


@pytest.mark.parametrize(('depth', 'with_norm'), [(11, True)])
def test_vgg_equals_timm_with_the_same_weights(depth, with_norm):
    with torch.device('meta'):  # as above, 4096 are cut to 16
        peer = timm.create_model(f'vgg{depth}' + '_bn' * with_norm, num_classes=7)
        peer.pre_logits = timm.models.vgg.ConvMlp(512, 16, 7, drop_rate=0.0)
        peer.head = timm.layers.ClassifierHead(16, 7)
    peer = peer.to_empty(device='cpu')
    for tensor in (*peer.parameters(), *peer.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.05) if tensor.ndim > 1 else nn.init.uniform_(tensor, 0.5)
    key_map = next(m for m in VGG.weights
                   if m.source == 'timm' and m.matches(peer.state_dict()))
    head = MLPHead(7, (16, 16), 512, grid=7)
    assert_equal_to_peer(VGG(depth, with_norm=with_norm), peer, key_map, size=224, head=head)


@pytest.mark.parametrize('depth', [11, 13, 16, 19])
@pytest.mark.parametrize('with_norm', [False, True])
def test_one_map_of_each_source_takes_the_names_of_a_size(depth, with_norm):
    with torch.device('meta'):
        peer = getattr(torchvision.models, f'vgg{depth}' + '_bn' * with_norm)()
        ours = VGG(depth, with_norm=with_norm)
    state = peer.state_dict()
    maps = [m for m in VGG.weights if m.source == 'torchvision' and m.matches(state)]
    assert len(maps) == 1
    renamed = maps[0].apply_at('backbone.', state)
    assert {k for k in renamed if k.startswith('backbone.')} == {
        f'backbone.{k}' for k in ours.state_dict()}
    assert count(ours) == count(peer.features)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = VGG(11, width=0.125, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 32, 64, 64]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'depth': 12}, 'not 12'), ({'out_stages': (0,)}, 'within 1 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        VGG(**arguments)
