import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

from openlab.backbones.mvit import HeadPool, MViT, offsets_of, pool_places
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, key_map

SMALL = {'embed_dim': 8, 'num_heads': 1, 'image_size': 64, 'drop_path': 0.0}


def peer(expands_in_attention=True, num_classes=7, with_class_token=False):
    return MultiScaleVit(
        MultiScaleVitCfg(depths=(1, 2, 5, 2), embed_dim=8, num_heads=1,
                         expand_attn=expands_in_attention, use_cls_token=with_class_token),
        img_size=(64, 64), num_classes=num_classes)


@pytest.mark.parametrize('expands_in_attention', [True, False])
def test_mvit_equals_timm_with_the_same_weights(expands_in_attention):
    theirs = peer(expands_in_attention)
    ours = MViT(**SMALL, expands_in_attention=expands_in_attention)
    assert_equal_to_peer(ours, theirs, key_map(MViT, 'timm', theirs.state_dict()), size=64)


def test_mvit_with_a_class_token_equals_timm_with_the_same_weights():
    theirs = peer(with_class_token=True)
    ours = MViT(**SMALL, with_class_token=True, output='class_token')
    assert_equal_to_peer(ours, theirs, key_map(MViT, 'timm', theirs.state_dict()), size=64)


@pytest.mark.slow
@pytest.mark.parametrize('size', ['base', 'large', 'huge'])
def test_names_and_shapes_with_a_class_token_are_those_of_timm(size):
    with torch.device('meta'):
        ours = MViT(size, expands_in_attention=True, with_class_token=True, output='class_token')
        theirs = timm.create_model(f'mvitv2_{size}_cls')
    state = theirs.state_dict()
    assert_names_fit(ours, key_map(MViT, 'timm', state), {k: v.shape for k, v in state.items()})


@pytest.mark.parametrize('size', [
    'tiny', 'small', 'base', pytest.param('large', marks=pytest.mark.slow)])
def test_names_and_shapes_of_every_size_are_those_of_timm(size):
    with torch.device('meta'):
        ours, theirs = MViT(size), timm.create_model(f'mvitv2_{size}')
    state = theirs.state_dict()
    assert_names_fit(ours, key_map(MViT, 'timm', state), {k: v.shape for k, v in state.items()})


def test_names_of_openmmlab_are_all_accounted_for():
    """Names and shapes as in the published checkpoints, for a network of two stages."""
    names = {'patch_embed.projection.weight': (8, 3, 7, 7), 'patch_embed.projection.bias': (8,),
             'norm1.weight': (16,), 'norm1.bias': (16,)}
    for i, (C, D, offsets) in enumerate(((8, 8, 31), (8, 16, 15), (16, 16, 15))):
        block = {'norm1.weight': (C,), 'norm1.bias': (C,), 'norm2.weight': (D,),
                 'norm2.bias': (D,), 'attn.rel_pos_h': (offsets, 8), 'attn.rel_pos_w': (offsets, 8),
                 'attn.qkv.weight': (3 * D, C), 'attn.qkv.bias': (3 * D,),
                 'attn.proj.weight': (D, D), 'attn.proj.bias': (D,),
                 'mlp.fc1.weight': (4 * D, D), 'mlp.fc1.bias': (4 * D,),
                 'mlp.fc2.weight': (D, 4 * D), 'mlp.fc2.bias': (D,)}
        for part in 'qkv':
            block |= {f'attn.pool_{part}.weight': (8, 1, 3, 3), f'attn.norm_{part}.weight': (8,),
                      f'attn.norm_{part}.bias': (8,)}
        if C != D:
            block |= {'proj.weight': (D, C), 'proj.bias': (D,)}
        names |= {f'blocks.{i}.{k}': v for k, v in block.items()}
    assert_names_fit(MViT(**SMALL, num_blocks=(1, 2), out_stages=(3,)), key_map(MViT, 'openmmlab'),
                     names)


@pytest.mark.parametrize(('expands_in_attention', 'with_class_token'), [
    (True, False), (False, False), (True, True)])
def test_maps_of_all_stages_equal_timm_before_the_norm(expands_in_attention, with_class_token):
    torch.manual_seed(0)
    theirs = peer(expands_in_attention, with_class_token=with_class_token).eval()
    ours = MViT(**SMALL, expands_in_attention=expands_in_attention,
                with_class_token=with_class_token, out_stages=(2, 3, 4, 5)).eval()
    state = key_map(MViT, 'timm', theirs.state_dict()).apply(theirs.state_dict())
    ours.load_state_dict({k: v for k, v in state.items() if k[0] != '.'}, strict=False)
    images = torch.randn(1, 3, 64, 64)
    expected = theirs.forward_intermediates(images, intermediates_only=True)
    for got, maps in zip(ours(images), expected, strict=True):
        normal = torch.nn.functional.layer_norm(maps.permute(0, 2, 3, 1), maps.shape[1:2], eps=1e-6)
        torch.testing.assert_close(got, normal.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('expands_in_attention', 'channels'), [
    (True, [8, 16, 32, 64]), (False, [16, 32, 64, 64])])
def test_maps_of_other_image_sizes_have_the_promised_channels_and_strides(
        expands_in_attention, channels):
    net = MViT(**SMALL, expands_in_attention=expands_in_attention, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 96, 128))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == channels
    assert [(96 // m.shape[2], 128 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_sizes_of_maps_are_rounded_up():
    maps = MViT(**SMALL, out_stages=(2, 3, 4, 5)).eval()(torch.randn(1, 3, 50, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(13, 16), (7, 8), (4, 4), (2, 2)]


def test_offsets_are_counted_from_the_last_key():
    table = torch.arange(7.0)[:, None]
    assert offsets_of(table, 4, 4)[..., 0].tolist() == [
        [3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]
    # two keys stand for four places
    assert offsets_of(table, 4, 2)[..., 0].tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert offsets_of(table, 2, 4)[..., 0].tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]


def test_offsets_of_a_longer_axis_are_interpolated():
    table = torch.linspace(-3, 3, 7)[:, None]
    longer = offsets_of(table, 8, 8)[..., 0]
    assert longer[3, 3] == 0  # an offset of nothing stays in the middle
    torch.testing.assert_close(longer, -longer.T)


def test_heads_are_pooled_alike():
    x = torch.randn(1, 1, 36, 4).repeat(1, 3, 1, 1)
    pooled, size = HeadPool(4, 2)(x, (6, 6))
    assert pooled.shape == (1, 3, 9, 4) and size == (3, 3)
    torch.testing.assert_close(pooled[:, 0], pooled[:, 2])


def test_a_token_before_those_of_the_map_is_not_pooled():
    x = torch.randn(1, 1 + 16, 2)
    pooled, size = pool_places(x, (4, 4), torch.nn.MaxPool2d(2))
    assert pooled.shape == (1, 1 + 4, 2) and size == (2, 2)
    assert torch.equal(pooled[:, 0], x[:, 0])
    corner = x[0, [1, 2, 5, 6]]  # the first two places of the first two rows
    assert torch.equal(pooled[0, 1], corner.amax(0))


def test_weights_of_another_image_size_load_with_interpolated_offsets():
    large = MViT(**SMALL | {'image_size': 96}).eval()
    large.load_state_dict(MViT(**SMALL).state_dict())
    assert large(torch.randn(1, 3, 96, 96))[0].isfinite().all()


def test_blocks_after_the_last_wanted_stage_are_not_built():
    assert len(MViT(**SMALL, out_stages=(3,)).blocks) == 3


def test_offsets_are_left_out_of_weight_decay():
    net = MViT(**SMALL)
    assert len(net.no_weight_decay()) == 2 * len(net.blocks)
    assert net.no_weight_decay() <= {name for name, _ in net.named_parameters()}
    assert 'class_token' in MViT(**SMALL, with_class_token=True).no_weight_decay()


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'nano'}, "not 'nano'"), ({'embed_dim': 9, 'num_heads': 2}, 'over num_heads=2'),
    ({'output': 'token'}, "not 'token'"),
    ({'output': 'class_token'}, 'needs with_class_token=True'),
    ({'output': 'class_token', 'with_class_token': True, 'out_stages': (4, 5)}, 'one of'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        MViT(**arguments)
