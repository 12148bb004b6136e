import pytest
import timm
import torch
from timm.models.eva import Eva as TimmEva

from openlab.backbones.eva02 import EVA02
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'patch_size': 8, 'image_size': 32,
         'trained_grid': (3, 3), 'drop_path': 0.0}


def test_the_image_tower_of_eva02_clip_equals_timm_with_the_same_weights():
    peer = TimmEva(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=7,
                   mlp_ratio=8 / 3, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
                   qkv_fused=False, use_rot_pos_emb=True, ref_feat_shape=(3, 3),
                   global_pool='token')
    ours = EVA02(**SMALL, with_mlp_norm=True, with_attention_norm=True, output='class_token')
    assert_equal_to_peer(ours, peer, key_map(EVA02, 'timm'))


@pytest.mark.parametrize('is_large', [False, True])
def test_eva02_equals_timm_with_the_same_weights(is_large):
    peer = TimmEva(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=7,
                   mlp_ratio=8 / 3, swiglu_mlp=True, scale_mlp=is_large, qkv_fused=not is_large,
                   use_rot_pos_emb=True, ref_feat_shape=(3, 3))
    ours = EVA02(**SMALL, with_mlp_norm=is_large)
    assert_equal_to_peer(ours, peer, key_map(EVA02, 'timm'))


@pytest.mark.parametrize(('name', 'arguments'), [
    ('eva02_tiny_patch14_336', {'size': 'tiny'}), ('eva02_small_patch14_336', {'size': 'small'}),
    ('eva02_base_patch14_448', {'size': 'base', 'image_size': 448}),
    ('eva02_large_patch14_448', {'size': 'large', 'image_size': 448})])
def test_names_of_published_sizes_equal_timm(name, arguments):
    with torch.device('meta'):
        peer, ours = timm.create_model(name, num_classes=0), EVA02(**arguments)
    assert count(ours) == count(peer)
    assert_names_fit(ours, key_map(EVA02, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


@pytest.mark.parametrize('with_norm', [False, True])
def test_names_of_openmmlab_are_all_accounted_for(with_norm):
    D, F = 32, 85
    rope = {'rope.freqs_cos': (16, 16), 'rope.freqs_sin': (16, 16)}
    block = {'attn.qkv.weight': (3 * D, D), 'attn.qkv.bias': (3 * D,), 'attn.proj.weight': (D, D),
             'attn.proj.bias': (D,), 'mlp.w12.weight': (2 * F, D), 'mlp.w12.bias': (2 * F,),
             'mlp.w3.weight': (D, F), 'mlp.w3.bias': (D,),
             **{f'norm{i}.{p}': (D,) for i in (1, 2) for p in ('weight', 'bias')},
             **{f'attn.{k}': v for k, v in rope.items()}}
    if with_norm:
        block |= {'mlp.norm.weight': (F,), 'mlp.norm.bias': (F,)}
    theirs = {'cls_token': (1, 1, D), 'pos_embed': (1, 17, D), 'ln2.weight': (D,),
              'patch_embed.projection.weight': (D, 3, 8, 8), 'patch_embed.projection.bias': (D,),
              'ln2.bias': (D,), **rope,
              **{f'layers.{i}.{k}': v for i in range(2) for k, v in block.items()}}
    net = EVA02(**SMALL, with_mlp_norm=with_norm)
    assert_names_fit(net, key_map(EVA02, 'openmmlab'), theirs)


def test_maps_of_other_images_have_the_promised_channels_and_strides():
    net = EVA02(**SMALL, output='maps', out_stages=(1, 2))
    assert [m.shape for m in net(torch.randn(1, 3, 48, 24))] == [(1, 32, 6, 3)] * 2
    assert (net.out_channels, net.strides) == ((32, 32), (8, 8))


def test_weights_of_another_image_size_load_with_interpolated_positions():
    small, large = EVA02(**SMALL), EVA02(**{**SMALL, 'image_size': 64})
    large.load_state_dict(small.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(large(images)[0], small(images)[0])


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'nano'}, "not 'nano'"), ({'image_size': 30}, 'multiple of patch_size=14'),
    ({'output': 'token'}, "not 'token'"), ({'out_stages': (1,)}, "needs output='maps'")])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        EVA02(**arguments)
