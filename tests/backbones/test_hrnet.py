import pytest
import timm
import torch

from openlab.backbones.hrnet import HRMerge, HRModule, HRNet
from openlab.heads.linear_head import LinearHead
from tests.backbones.parity import assert_equal_to_peer, count, key_map

TINY = {'size': 'w18_small', 'base_channels': 4, 'bottleneck_width': 4, 'num_blocks': 1}


def test_hrnet_equals_timm_with_the_same_weights():
    peer = timm.create_model('hrnet_w18_small', num_classes=7)
    ours = HRNet('w18_small')
    assert_equal_to_peer(ours, peer, key_map(HRNet, 'timm'), size=64,
                         neck=HRMerge(ours.out_channels), head=LinearHead(7, 2048))


@pytest.mark.parametrize('size', ['w18_small', 'w18_small_v2', 'w18', 'w64'])
def test_names_and_shapes_are_those_of_timm(size):
    with torch.device('meta'):
        ours, peer = HRNet(size), timm.create_model(f'hrnet_{size}')
        neck = HRMerge(ours.out_channels)
    renamed = key_map(HRNet, 'timm').apply(peer.state_dict())
    assert {k: v.shape for k, v in renamed.items() if not k.startswith('../head')} == {
        **{k: v.shape for k, v in ours.state_dict().items()},
        **{f'../neck.{k}': v.shape for k, v in neck.state_dict().items()}}


def test_a_module_adds_all_maps_at_each_resolution():
    module = HRModule((1, 1), num_blocks=1, outputs=(0, 1))
    for path in module.fuse.values():
        for part in path.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.ones_(part.weight)
    for branch in module.branches:  # a block whose residual is zero is the identity
        torch.nn.init.zeros_(branch[0].conv2.norm.weight)
    fine, coarse = module.eval()([torch.ones(1, 1, 4, 4), torch.full((1, 1, 2, 2), 2.0)])
    torch.testing.assert_close(fine, torch.full((1, 1, 4, 4), 3.0), rtol=1e-4, atol=0)
    # 3x3 sums of ones over a padded corner hold 4, over an edge 6, inside 9
    torch.testing.assert_close(coarse, torch.tensor([[[[6.0, 8.0], [8.0, 11.0]]]]), rtol=1e-4,
                               atol=0)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = HRNet(**TINY)
    maps = net(torch.randn(1, 3, 64, 32))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [4, 8, 16, 32]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


def test_maps_of_some_stages_are_those_of_all_and_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    whole, part = HRNet(**TINY, zero_init_last=False), HRNet(**TINY, out_stages=(2, 5))
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    image = torch.randn(2, 3, 64, 64)
    (fine, coarse), maps = part(image), whole(image)
    assert torch.equal(fine, maps[0]) and torch.equal(coarse, maps[3])
    assert count(part) < count(whole)
    (fine.square().sum() + coarse.square().sum()).backward()
    assert [n for n, p in part.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('upsample', ['nearest', 'bilinear'])
def test_sizes_that_no_stride_divides_work(upsample):
    maps = HRNet(**TINY, upsample=upsample)(torch.randn(2, 3, 45, 70))
    assert [tuple(m.shape[2:]) for m in maps] == [(12, 18), (6, 9), (3, 5), (2, 3)]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'w20'}, "not 'w20'"), ({'upsample': 'cubic'}, "not 'cubic'"),
    ({'num_modules': (1, 1)}, 'three stages'), ({'out_stages': (1, 2)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        HRNet(**arguments)


def test_a_merge_of_too_few_maps_is_refused():
    with pytest.raises(ValueError, match='gets 2 maps'):
        HRMerge((4, 8))


def test_names_of_openmmlab_lead_to_ours():
    with torch.device('meta'):
        net = HRNet('w18')
        neck = HRMerge(net.out_channels, bias=False)
    theirs = {
        'transition1.0.1.weight': 'transitions.0.0.norm.weight',
        'transition3.3.0.0.weight': 'transitions.2.3.conv.weight',
        'stage4.2.branches.3.0.bn2.bias': 'stages.2.2.branches.3.0.conv2.norm.bias',
        'stage4.0.fuse_layers.3.1.1.0.weight': 'stages.2.0.fuse.3.1.1.conv.weight',
        'stage4.0.fuse_layers.0.3.1.weight': 'stages.2.0.fuse.0.3.norm.weight',
        'layer1.0.downsample.0.weight': 'bottlenecks.0.shortcut.conv.weight',
        'stage2.0.branches.0.0.conv1.weight': 'stages.0.0.branches.0.0.conv1.conv.weight',
        'transition1.0.0.weight': 'transitions.0.0.conv.weight',
        'bn2.weight': 'stem.1.norm.weight'}
    of_neck = {
        '0.increase_layers.3.0.conv1.weight': 'widen.3.conv1.conv.weight',
        '0.increase_layers.0.0.downsample.1.bias': 'widen.0.shortcut.norm.bias',
        '0.downsample_layers.2.bn.weight': 'down.2.norm.weight',
        '0.final_layer.conv.weight': 'last.conv.weight'}
    for module, names in ((net, theirs), (neck, of_neck)):
        (renames,) = [m for m in type(module).weights if m.source == 'openmmlab']
        state = dict.fromkeys(names, torch.zeros(1))
        assert renames.matches(state)
        assert list(renames.apply(state)) == list(names.values())
        assert set(names.values()) <= set(module.state_dict())
