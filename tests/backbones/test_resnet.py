import pytest
import timm
import torch
import torchvision
from torchvision.ops import FrozenBatchNorm2d

from openlab.backbones.resnet import ResNet
from tests.backbones.parity import assert_equal_to_peer, count, key_map


@pytest.mark.parametrize('depth', [18, 50])
def test_resnet_equals_torchvision_with_the_same_weights(depth):
    peer = getattr(torchvision.models, f'resnet{depth}')(num_classes=7)
    assert_equal_to_peer(ResNet(depth), peer, key_map(ResNet, 'torchvision'))


@pytest.mark.parametrize(('name', 'source', 'arguments'), [
    ('resnet34', 'timm', {'depth': 34}),
    ('resnet50d', 'timm_resnet_d', {'depth': 50, 'stem': 'deep', 'avg_down': True}),
    ('resnet50s', 'timm_resnet_c', {'depth': 50, 'stem': 'deep', 'stem_channels': 128}),
    ('seresnet50', 'timm', {'depth': 50, 'se_reduction': 16}),
    ('resnext50_32x4d', 'timm', {'depth': 50, 'groups': 32, 'width_per_group': 4}),
    ('legacy_seresnet50', 'timm_senet',
     {'depth': 50, 'se_reduction': 16, 'stride_in_conv1': True, 'pool_ceil': True}),
    ('legacy_seresnext26_32x4d', 'timm_senet',
     {'block': 'bottleneck', 'num_blocks': (2, 2, 2, 2), 'groups': 32, 'width_per_group': 4,
      'se_reduction': 16, 'pool_ceil': True}),
])
def test_resnet_equals_timm_with_the_same_weights(name, source, arguments):
    peer = timm.create_model(name, num_classes=7, drop_rate=0.0)
    # 64 px: at 32 the last maps are one pixel, whose batch statistics magnify rounding.
    assert_equal_to_peer(ResNet(**arguments), peer, key_map(ResNet, source), size=64)


def test_dilated_resnet_equals_timm_and_keeps_resolution():
    peer = timm.create_model('resnet50', num_classes=7, output_stride=8)
    ours = ResNet(50, output_stride=8)
    assert ours.strides == (8,)
    assert ours(torch.zeros(1, 3, 64, 64))[0].shape == (1, 2048, 8, 8)
    assert_equal_to_peer(ours, peer, key_map(ResNet, 'timm'), size=64)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_parameter_count_equals_torchvision(depth):
    with torch.device('meta'):
        ours = ResNet(depth)
        peer = getattr(torchvision.models, f'resnet{depth}')()
    assert count(ours) == count(peer) - count(peer.fc)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = ResNet(18, base_channels=8, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 32, 64]
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


@pytest.mark.parametrize('stem', ['conv7', 'deep'])
def test_the_first_stage_is_the_stem_before_its_pooling(stem):
    net = ResNet(18, base_channels=8, stem=stem, stem_channels=6, out_stages=(1, 2)).eval()
    assert net.out_channels == (6, 8) and net.strides == (2, 4)
    x = torch.randn(1, 3, 32, 32)
    fine, coarse = net(x)
    torch.testing.assert_close(fine, net.stem[:-1](x))
    torch.testing.assert_close(coarse, net.stages[0](net.stem[-1](fine)))


def test_a_stem_without_pooling_has_a_first_stage_too():
    net = ResNet(18, base_channels=8, stem='conv3', out_stages=(1, 2))
    assert net.strides == (1, 1)
    assert [m.shape[-1] for m in net(torch.randn(1, 3, 8, 8))] == [8, 8]


def test_a_hook_on_the_stem_is_called():
    net, seen = ResNet(18, base_channels=8).eval(), []
    net.stem.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    net(torch.randn(1, 3, 32, 32))
    assert seen == [(1, 8, 8, 8)]


def test_stages_after_the_last_wanted_one_are_not_built():
    net = ResNet(18, base_channels=8, out_stages=(2, 3))
    assert len(net.stages) == 2
    assert net.out_channels == (8, 16)


def test_small_image_stem_keeps_a_quarter_of_the_strides():
    net = ResNet(18, base_channels=8, stem='conv3', out_stages=(2, 5))
    assert net.strides == (1, 8)
    assert [m.shape[-1] for m in net(torch.randn(1, 3, 16, 16))] == [16, 2]


def test_stem_with_stride_two_halves_the_strides():
    net = ResNet(18, base_channels=8, stem='conv3s2', out_stages=(2, 5))
    assert net.strides == (2, 16)
    assert [m.shape[-1] for m in net(torch.randn(1, 3, 32, 32))] == [16, 2]


def test_unknown_stem_names_those_that_exist():
    with pytest.raises(ValueError, match="'conv7', 'deep', 'conv3s2' and 'conv3', not 'conv5'"):
        ResNet(18, base_channels=8, stem='conv5')


def test_frozen_batch_norm_leaves_only_convolutions_to_train():
    net = ResNet(18, base_channels=8, norm={'type': FrozenBatchNorm2d})
    assert all(p.ndim == 4 for p in net.parameters())
    before = {k: v.clone() for k, v in net.named_buffers()}
    net.train()(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(before[k], v) for k, v in net.named_buffers())


def test_group_norm_can_take_the_place_of_batch_norm():
    net = ResNet(18, base_channels=8, norm={'type': torch.nn.GroupNorm, 'num_groups': 4})
    assert isinstance(net.stem[0].norm, torch.nn.GroupNorm)
    assert net(torch.randn(1, 3, 32, 32))[0].isfinite().all()


def test_centred_images_are_told_apart_by_contrast_alone():
    torch.manual_seed(0)
    small = {'block': 'basic', 'num_blocks': (1, 1), 'base_channels': 8, 'out_stages': (3,)}
    centred = ResNet(**small, center_images=True).eval()
    plain = ResNet(**small).eval()
    plain.load_state_dict(centred.state_dict())
    images = torch.randn(2, 3, 32, 32)
    tinted = images + torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(centred(tinted)[0], centred(images)[0])
        assert not torch.allclose(plain(tinted)[0], plain(images)[0], rtol=1e-2)


def test_residual_branches_start_at_zero():
    net = ResNet(18, base_channels=8, zero_init_last=True).eval()
    block = net.stages[0][1]
    x = torch.rand(1, 8, 4, 4)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'depth': 20}, r'depths \[18, 34, 50, 101, 152\], not 20'),
    ({'out_stages': (0, 2)}, 'within 1 to 5'),
    ({'out_stages': (4, 3)}, 'must rise'),
    ({'depth': 18, 'groups': 32}, 'no grouped form'),
    ({'stem': 'conv5'}, "not 'conv5'"),
])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
