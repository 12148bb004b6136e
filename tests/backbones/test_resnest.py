import pytest
import timm
import torch

from openlab.backbones.resnest import ResNeSt, SplitAttention
from tests.backbones.parity import assert_equal_to_peer, count, key_map

# timm's names: https://arxiv.org/abs/2004.08955, table 7 (fast variants: radix, groups, width)
SIZES = {
    'resnest14d': {'depth': 14}, 'resnest50d': {}, 'resnest101e': {'depth': 101},
    'resnest269e': {'depth': 269},
    'resnest50d_4s2x40d': {'radix': 4, 'groups': 2, 'width_per_group': 40, 'pool_first': True},
    'resnest50d_1s4x24d': {'radix': 1, 'groups': 4, 'width_per_group': 24, 'pool_first': True},
}


@pytest.mark.parametrize('arguments', [
    {}, {'radix': 4, 'groups': 2, 'width_per_group': 40, 'pool_first': True},
    {'radix': 1, 'groups': 4, 'width_per_group': 24, 'pool_first': True}])
def test_resnest_equals_timm_with_the_same_weights(arguments):
    ours = ResNeSt(num_blocks=(2, 1, 1, 1), **arguments)
    peer = timm.models.resnet.ResNet(
        timm.models.resnest.ResNestBottleneck, (2, 1, 1, 1), num_classes=7,
        stem_type='deep', stem_width=32, avg_down=True,
        base_width=arguments.get('width_per_group', 64), cardinality=arguments.get('groups', 1),
        block_args={'radix': arguments.get('radix', 2), 'avd': True,
                    'avd_first': arguments.get('pool_first', False)})
    assert_equal_to_peer(ours, peer, key_map(ResNeSt, 'timm'), size=64)


@pytest.mark.parametrize(('name', 'arguments'), SIZES.items())
def test_names_and_shapes_are_those_of_timm(name, arguments):
    with torch.device('meta'):
        ours, peer = ResNeSt(**arguments), timm.create_model(name)
    renamed = key_map(ResNeSt, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}
    assert count(ours) == count(peer) - count(peer.fc)


@pytest.mark.parametrize('stem', [
    {'stem.0.conv.weight': 'stem.0.conv.weight', 'stem.2.bn.bias': 'stem.2.norm.bias'},
    # of detectors and segmentors
    {'stem.0.weight': 'stem.0.conv.weight', 'stem.1.weight': 'stem.0.norm.weight',
     'stem.4.weight': 'stem.1.norm.weight', 'stem.6.weight': 'stem.2.conv.weight',
     'stem.7.bias': 'stem.2.norm.bias'}])
def test_names_of_openmmlab_lead_to_ours(stem):
    names = {
        **stem,
        'layer1.0.conv2.bn0.weight': 'stages.0.0.conv2.conv.norm.weight',
        'layer1.0.conv2.conv.weight': 'stages.0.0.conv2.conv.conv.weight',
        'layer1.0.conv2.fc1.bias': 'stages.0.0.conv2.reduce.conv.bias',
        'layer4.2.conv2.bn1.bias': 'stages.3.2.conv2.reduce.norm.bias',
        'layer4.2.conv2.fc2.bias': 'stages.3.2.conv2.expand.bias',
        'layer2.1.bn3.bias': 'stages.1.1.conv3.norm.bias',
        'layer1.0.downsample.0.weight': 'stages.0.0.shortcut.conv.weight',
        'layer2.0.downsample.1.weight': 'stages.1.0.shortcut.conv.weight',
        'layer2.0.downsample.2.weight': 'stages.1.0.shortcut.norm.weight'}
    state = dict.fromkeys(names, torch.zeros(1))
    assert list(key_map(ResNeSt, 'openmmlab', state).apply(state)) == list(names.values())
    with torch.device('meta'):
        assert set(names.values()) <= set(ResNeSt().state_dict())


def test_attention_of_one_map_is_a_gate_and_of_two_a_mean_of_equals():
    x = torch.randn(1, 4, 5, 5)
    for radix in (1, 2):
        block = SplitAttention(4, radix, groups=1, act={'type': torch.nn.Identity}).eval()
        torch.nn.init.zeros_(block.expand.weight), torch.nn.init.zeros_(block.expand.bias)
        maps = block.conv(x).unflatten(1, (radix, 4))
        torch.testing.assert_close(block(x), maps.sum(1) / 2)  # sigmoid(0), or 1 of 2


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = ResNeSt(num_blocks=(1, 1, 1, 1), base_channels=8, stem_channels=8,
                  out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [32, 64, 128, 256]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'depth': 18}, 'not 18'), ({'radix': 0}, 'at least 1'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNeSt(**arguments)
