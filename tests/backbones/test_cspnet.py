import pytest
import timm
import torch
from torch import nn

from openlab.backbones.cspnet import CSPNet, CSPStage
from tests.backbones.parity import assert_equal_to_peer, count, key_map

TIMM_ACT = {'type': nn.LeakyReLU}
SIZES = {'cspdarknet53': 'darknet53', 'cspresnet50': 'resnet50', 'cspresnet50d': 'resnet50d',
         'cspresnext50': 'resnext50'}


def peer_of(name, depths):
    cfg = timm.models.cspnet.model_cfgs[name]
    stages = timm.models.cspnet.replace(cfg.stages, depth=depths)
    return timm.models.cspnet.CspNet(timm.models.cspnet.replace(cfg, stages=stages), num_classes=7)


@pytest.mark.parametrize(('name', 'num_blocks'), [
    ('cspdarknet53', (1, 2, 1, 1, 1)), ('cspresnet50', (2, 1, 1, 1)),
    ('cspresnext50', (1, 2, 1, 1)), ('cspresnet50d', (1, 1, 1, 1))])
def test_cspnet_equals_timm_with_the_same_weights(name, num_blocks):
    ours = CSPNet(SIZES[name], num_blocks, act=TIMM_ACT)
    assert_equal_to_peer(ours, peer_of(name, num_blocks), key_map(CSPNet, 'timm'), size=64)


@pytest.mark.parametrize('name', SIZES)
def test_names_and_shapes_are_those_of_timm(name):
    with torch.device('meta'):
        ours, peer = CSPNet(SIZES[name]), timm.create_model(name)
    renamed = key_map(CSPNet, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('..')} == {
        k: v.shape for k, v in ours.state_dict().items()}
    assert count(ours) == count(peer) - count(peer.head)


@pytest.mark.parametrize(('size', 'names'), [
    ('darknet53', {
        'stem.conv.weight': 'stem.0.conv.weight',
        'stem.bn.bias': 'stem.0.norm.bias',
        'stages.4.blocks.3.conv2.bn.weight': 'stages.4.blocks.3.conv2.norm.weight'}),
    ('resnext50', {
        'stem.0.conv.weight': 'stem.0.conv.weight',
        'stem.0.bn.bias': 'stem.0.norm.bias',
        'stages.0.blocks.2.conv3.weight': 'stages.0.blocks.2.conv3.conv.weight',
        'stages.0.blocks.2.bn3.weight': 'stages.0.blocks.2.conv3.norm.weight'})])
def test_names_of_openmmlab_lead_to_ours(size, names):
    names = {
        **names,
        'stages.1.downsample_conv.conv.weight': 'stages.1.down.conv.weight',
        'stages.1.expand_conv.bn.bias': 'stages.1.expand.norm.bias',
        'stages.1.atfer_blocks_conv.conv.weight': 'stages.1.after.conv.weight',
        'stages.1.final_conv.conv.weight': 'stages.1.merge.conv.weight'}
    state = dict.fromkeys(names, torch.zeros(1))
    assert list(key_map(CSPNet, 'openmmlab', state).apply(state)) == list(names.values())
    with torch.device('meta'):
        assert set(names.values()) <= set(CSPNet(size).state_dict())


def test_a_stage_sends_only_the_second_half_of_its_channels_through_the_blocks():
    tenfold = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(tenfold.weight, 10)
    stage = CSPStage(2, 2, 2, tenfold, nn.Identity(), False, act={'type': nn.Identity})
    for part in (stage.expand, stage.merge):
        part.conv.weight.data = torch.eye(2)[:, :, None, None]
    nn.init.ones_(stage.after.conv.weight)
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(stage.eval()(x).flatten(), torch.tensor([1.0, 20.0]), rtol=1e-4,
                               atol=0)


@pytest.mark.parametrize(('size', 'first'), [('darknet53', 1), ('resnet50', 2)])
def test_maps_of_all_stages_have_the_promised_channels_and_strides(size, first):
    stages = tuple(range(first, 6))
    net = CSPNet(size, (1,) * len(stages), width=0.125, out_stages=stages)
    maps = net(torch.randn(2, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels)
    assert net.out_channels[-1] == 128
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [2**s for s in stages]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'darknet19'}, "not 'darknet19'"), ({'num_blocks': (1, 1)}, '5 stages'),
    ({'size': 'resnet50', 'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        CSPNet(**arguments)
