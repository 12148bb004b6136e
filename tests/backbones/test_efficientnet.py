import pytest
import timm
import torch
import torchvision
from torch import nn

from openlab.backbones.efficientnet import EfficientNet
from tests.backbones.parity import assert_equal_to_peer, count

TF = {'padding': 'same', 'norm': {'type': nn.BatchNorm2d, 'eps': 1e-3}}


def fitting_map(source, peer):
    return next(m for m in EfficientNet.weights
                if m.source == source and m.matches(peer.state_dict()))


@pytest.mark.parametrize(('name', 'arguments'), [
    ('efficientnet_b0', {}),
    ('tf_efficientnet_lite0', {'size': 'lite0', **TF}),
    ('tf_efficientnetv2_b0', {'size': 'v2_b0', **TF}),
])
def test_efficientnet_equals_timm_with_the_same_weights(name, arguments):
    peer = timm.create_model(name, num_classes=7)
    # 66 px: an odd number of zeros is needed somewhere, which tells the paddings apart
    assert_equal_to_peer(EfficientNet(**arguments), peer, fitting_map('timm', peer), size=66)


def test_efficientnet_equals_torchvision_with_the_same_weights():
    peer = torchvision.models.efficientnet_b0(num_classes=7, dropout=0, stochastic_depth_prob=0)
    assert_equal_to_peer(EfficientNet(), peer, fitting_map('torchvision', peer), size=64)


def names_and_shapes(state):
    return {k: tuple(v.shape) for k, v in state.items() if k.startswith('backbone.')}


@pytest.mark.parametrize(('source', 'name', 'size'), [
    *(('torchvision', f'efficientnet_b{i}', f'b{i}') for i in (0, 2, 3, 5, 7)),
    *(('torchvision', f'efficientnet_v2_{s}', f'v2_{s}') for s in 'sm'),
    *(('timm', f'tf_efficientnet_b{i}', f'b{i}') for i in (1, 4, 8)),
    *(('timm', f'tf_efficientnet_lite{i}', f'lite{i}') for i in range(5)),
    *(('timm', f'tf_efficientnetv2_{s}', f'v2_{s}') for s in ('b1', 'b2', 'b3', 's')),
])
def test_names_and_shapes_of_every_size_are_those_of_the_peer(source, name, size):
    with torch.device('meta'):
        ours = EfficientNet(size)
        peer = (getattr(torchvision.models, name)() if source == 'torchvision'
                else timm.create_model(name))
    renamed = fitting_map(source, peer).apply_at('backbone.', peer.state_dict())
    expected = {f'backbone.{k}': v for k, v in ours.state_dict().items()}
    assert names_and_shapes(renamed) == names_and_shapes(expected)
    assert 'head.fc.weight' in renamed


def test_flat_names_of_a_network_are_told_from_those_of_a_deeper_one():
    flat = []
    for size in ('lite0', 'lite2', 'b0'):
        with torch.device('meta'):
            net = EfficientNet(size)
        num = sum(len(g) for g in net.groups)
        state = {f'_blocks.{k}._bn1.weight': torch.full((), k) for k in range(num)}
        state['_conv_stem.weight'] = torch.ones(())
        key_map = next(m for m in net.weights if m.source == 'lukemelas' and m.matches(state))
        renamed = key_map.apply(state)
        assert set(renamed) <= set(net.state_dict())
        assert [int(renamed[k]) for k in net.state_dict() if k in renamed
                and k.endswith('depthwise.norm.weight')] == list(range(num))
        flat.append(num)
    assert flat == [16, 21, 16]


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = EfficientNet('b0', width=0.5, last_channels=0, out_stages=(1, 2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 24, 56, 160]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2, 4, 8, 16, 32]


def test_groups_after_the_last_wanted_stage_are_not_built():
    net = EfficientNet('v2_b0', out_stages=(2, 3))
    assert len(net.groups) == 3
    assert count(net.last) == 0


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'b9'}, "not 'b9'"),
    ({'padding': 'valid'}, "not 'valid'"),
    ({'out_stages': (0,)}, 'within 1 to 5'),
])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        EfficientNet(**arguments)
