import pytest
import timm
import torch
from timm.models.beit import Beit as TimmBeit
from timm.models.eva import Eva as TimmEva

from openlab.backbones.beit import BEiT
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'patch_size': 8, 'image_size': 32,
         'drop_path': 0.0}
PEER = {'img_size': 32, 'patch_size': 8, 'embed_dim': 32, 'depth': 2, 'num_heads': 2}


@pytest.mark.parametrize('output', ['mean', 'class_token'])
def test_beit_equals_timm_with_the_same_weights(output):
    peer = TimmBeit(**PEER, num_classes=7, init_values=0.1, use_rel_pos_bias=True,
                    use_abs_pos_emb=False,
                    global_pool={'mean': 'avg', 'class_token': 'token'}[output])
    for block in peer.blocks:
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    assert_equal_to_peer(BEiT(**SMALL, output=output), peer, key_map(BEiT, 'timm'))


def test_eva_equals_timm_with_the_same_weights():
    peer = TimmEva(**PEER, num_classes=7)
    ours = BEiT(**SMALL, layer_scale=None, with_relative_bias=False, with_position=True)
    assert_equal_to_peer(ours, peer, key_map(BEiT, 'timm'))


@pytest.mark.parametrize(('name', 'arguments'), [
    ('beit_base_patch16_224', {}), ('beitv2_large_patch16_224', {'size': 'large'}),
    ('eva_giant_patch14_336', {'size': 'giant', 'patch_size': 14, 'image_size': 336,
                               'layer_scale': None, 'with_relative_bias': False,
                               'with_position': True})])
def test_names_of_published_sizes_equal_timm(name, arguments):
    with torch.device('meta'):
        peer, ours = timm.create_model(name, num_classes=0), BEiT(**arguments)
    assert count(ours) == count(peer)
    assert_names_fit(ours, key_map(BEiT, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


def test_names_of_openmmlab_are_all_accounted_for():
    D = 32
    block = {'gamma_1': (D,), 'gamma_2': (D,), 'attn.q_bias': (D,), 'attn.v_bias': (D,),
             'attn.relative_position_bias_table': (52, 2), 'attn.qkv.weight': (3 * D, D),
             'attn.relative_position_index': (17, 17), 'attn.proj.weight': (D, D),
             'attn.proj.bias': (D,), 'ffn.layers.0.0.weight': (4 * D, D),
             'ffn.layers.0.0.bias': (4 * D,), 'ffn.layers.1.weight': (D, 4 * D),
             'ffn.layers.1.bias': (D,),
             **{f'ln{i}.{p}': (D,) for i in (1, 2) for p in ('weight', 'bias')}}
    theirs = {'cls_token': (1, 1, D), 'patch_embed.projection.weight': (D, 3, 8, 8),
              'patch_embed.projection.bias': (D,), 'ln2.weight': (D,), 'ln2.bias': (D,),
              **{f'layers.{i}.{k}': v for i in range(2) for k, v in block.items()}}
    assert_names_fit(BEiT(**SMALL), key_map(BEiT, 'openmmlab'), theirs)


@pytest.mark.parametrize(('heads', 'depth'), [(12, 12), (16, 24)])
def test_the_biases_that_pre_training_shares_reach_every_block(heads, depth):
    size = {**PEER, 'embed_dim': 2 * heads, 'depth': depth, 'num_heads': heads}
    peer = TimmBeit(**size, num_classes=0, init_values=0.1, use_shared_rel_pos_bias=True,
                    use_abs_pos_emb=False).eval()
    torch.nn.init.normal_(peer.rel_pos_bias.relative_position_bias_table)
    ours = BEiT(patch_size=8, image_size=32, embed_dim=2 * heads, depth=depth, num_heads=heads)
    ours.eval().load_state_dict(key_map(BEiT, 'timm').apply(peer.state_dict()))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images)[0], peer(images), rtol=1e-4, atol=1e-5)


def test_maps_of_other_images_have_the_promised_channels_and_strides():
    net = BEiT(**SMALL, output='maps', out_stages=(1, 2))
    assert [m.shape for m in net(torch.randn(1, 3, 48, 24))] == [(1, 32, 6, 3)] * 2
    assert (net.out_channels, net.strides) == ((32, 32), (8, 8))


def test_weights_of_another_image_size_load_with_interpolated_biases():
    small, large = BEiT(**SMALL), BEiT(**{**SMALL, 'image_size': 64})
    for block in small.blocks:
        torch.nn.init.normal_(block.attn.position_bias)
    large.load_state_dict(small.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(large(images)[0], small(images)[0])


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'tiny'}, "not 'tiny'"), ({'image_size': 30}, 'multiple of patch_size=16'),
    ({'output': 'token'}, "not 'token'"), ({'out_stages': (1,)}, "needs output='maps'"),
    ({'embed_dim': 50, 'num_heads': 3}, 'cannot be split')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        BEiT(**arguments)
