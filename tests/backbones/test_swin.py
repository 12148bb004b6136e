import pytest
import timm
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from openlab.backbones.swin import SwinBlock, SwinTransformer, WindowAttention
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'embed_dim': 16, 'num_blocks': (2, 2), 'num_heads': (2, 4), 'drop_path': 0.0}


@pytest.mark.parametrize('version', [1, 2])
def test_swin_equals_torchvision_with_the_same_weights(version):
    parts = {} if version == 1 else {
        'block': SwinTransformerBlockV2, 'downsample_layer': PatchMergingV2}
    peer = TorchvisionSwin([4, 4], 16, [2, 2], [2, 4], [3, 3], num_classes=7,
                           stochastic_depth_prob=0, **parts)
    ours = SwinTransformer(**SMALL, version=version, window_size=3, out_stages=(3,))
    source = key_map(SwinTransformer, 'torchvision', peer.state_dict())
    # 40 px: maps of 10 and 5 are padded to whole windows
    source = renumbered(source)
    assert_equal_to_peer(ours, peer, source, size=40)


@pytest.mark.parametrize(('version', 'peer'), [(1, TimmSwin), (2, TimmSwinV2)])
def test_swin_equals_timm_with_the_same_weights(version, peer):
    peer = peer(img_size=64, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4,
                num_classes=7, drop_path_rate=0)
    ours = SwinTransformer(**SMALL, version=version, window_size=4, out_stages=(3,))
    source = renumbered(key_map(SwinTransformer, 'timm', peer.state_dict()))
    assert_equal_to_peer(ours, peer, source, size=64)


def test_windows_larger_than_in_training_equal_timm():
    torch.manual_seed(0)
    peer = TimmSwinV2(img_size=64, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=8,
                      num_classes=0, pretrained_window_sizes=(4, 4)).eval()
    ours = SwinTransformer(**SMALL, version=2, window_size=8, trained_window=(4, 4),
                           out_stages=(3,)).eval()
    ours.load_state_dict(renumbered(key_map(SwinTransformer, 'timm')).apply(peer.state_dict()))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        ours(images)[0].mean((2, 3)), peer(images), rtol=1e-4, atol=1e-5)


def renumbered(source):
    """The map for a net of two stages, whose last norm is that of stage 1 rather than 3."""
    renames = tuple((pattern, new.replace('norms.3.', 'norms.1.'))
                    for pattern, new in source.renames)
    return type(source)(**{**vars(source), 'renames': renames})


@pytest.mark.parametrize(('name', 'arguments'), [
    ('swin_t', {}), ('swin_s', {'size': 'small'}), ('swin_b', {'size': 'base'}),
    ('swin_v2_t', {'version': 2}), ('swin_v2_b', {'version': 2, 'size': 'base'})])
def test_names_and_shapes_fit_all_of_torchvision(name, arguments):
    with torch.device('meta'):
        peer = getattr(torchvision.models, name)()
        ours = SwinTransformer(**arguments)
    state = peer.state_dict()
    assert_names_fit(ours, key_map(SwinTransformer, 'torchvision', state),
                     {k: v.shape for k, v in state.items()})


@pytest.mark.parametrize(('name', 'arguments'), [
    ('swin_large_patch4_window12_384', {'size': 'large', 'window_size': 12}),
    ('swinv2_large_window12_192', {'size': 'large', 'version': 2}),
    ('swinv2_small_window16_256', {'size': 'small', 'version': 2})])
def test_parameter_count_equals_timm(name, arguments):
    with torch.device('meta'):
        peer = timm.create_model(name, num_classes=0)
        ours = SwinTransformer(**arguments)
    assert count(ours) == count(peer)


@pytest.mark.parametrize('version', [1, 2])
def test_names_of_openmmlab_are_all_accounted_for(version):
    """Names and shapes as in the published checkpoints, for two stages."""
    net = SwinTransformer(**SMALL, version=version, window_size=4, out_stages=(3,))
    theirs = {'patch_embed.projection.weight': (16, 3, 4, 4),
              'patch_embed.projection.bias': (16,), 'patch_embed.norm.weight': (16,),
              'patch_embed.norm.bias': (16,), 'norm1.weight': (32,), 'norm1.bias': (32,)}
    at = 'stages.0.' if version == 1 else 'stages.1.'
    theirs[f'{at}downsample.reduction.weight'] = (32, 64)
    for name in ('weight', 'bias'):
        theirs[f'{at}downsample.norm.{name}'] = (64 if version == 1 else 32,)
    for i, D, heads in ((0, 16, 2), (1, 32, 4)):
        attention = {'relative_position_index': (16, 16), 'qkv.weight': (3 * D, D),
                     'proj.weight': (D, D), 'proj.bias': (D,)}
        if version == 1:
            attention |= {'relative_position_bias_table': (49, heads), 'qkv.bias': (3 * D,)}
        else:
            attention |= {'logit_scale': (heads, 1, 1), 'q_bias': (D,), 'v_bias': (D,),
                          'relative_coords_table': (1, 7, 7, 2), 'cpb_mlp.0.weight': (512, 2),
                          'cpb_mlp.0.bias': (512,), 'cpb_mlp.2.weight': (heads, 512)}
        block = {f'attn.w_msa.{k}': v for k, v in attention.items()} | {
            'norm1.weight': (D,), 'norm1.bias': (D,), 'norm2.weight': (D,), 'norm2.bias': (D,),
            'ffn.layers.0.0.weight': (4 * D, D), 'ffn.layers.0.0.bias': (4 * D,),
            'ffn.layers.1.weight': (D, 4 * D), 'ffn.layers.1.bias': (D,)}
        for j in range(2):
            theirs |= {f'stages.{i}.blocks.{j}.{k}': v for k, v in block.items()}
    assert_names_fit(net, next(
        m for m in SwinTransformer.weights if m.source == 'openmmlab'
        and m.matches(dict.fromkeys(theirs))), theirs)


def test_merged_patches_of_openmmlab_are_put_into_our_order():
    """nn.Unfold lists channel by channel; ours lists (column, row) by (column, row)."""
    image = torch.randn(1, 2, 2, 2)
    weight = torch.randn(1, 8)
    theirs = weight @ torch.nn.functional.unfold(image, 2, stride=2)[0]
    source = next(m for m in SwinTransformer.weights if m.source == 'openmmlab')
    mapped = source.apply({'stages.0.downsample.reduction.weight': weight})
    ours = image[0].permute(2, 1, 0).reshape(-1)
    torch.testing.assert_close(mapped['stages.1.downsample.reduction.weight'] @ ours, theirs[:, 0])


@pytest.mark.parametrize('version', [1, 2])
def test_maps_of_all_stages_have_the_promised_channels_and_strides(version):
    net = SwinTransformer(embed_dim=8, num_blocks=(1, 1, 1, 1), num_heads=(1, 2, 2, 2),
                          window_size=2, version=version, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 32, 64]
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_weights_of_another_window_load_with_interpolated_biases():
    large = SwinTransformer(**SMALL, window_size=4, out_stages=(3,))
    large.load_state_dict(SwinTransformer(**SMALL, window_size=2, out_stages=(3,)).state_dict())
    assert large(torch.randn(1, 3, 32, 32))[0].isfinite().all()


def test_stages_after_the_last_wanted_one_are_not_built():
    assert len(SwinTransformer(**SMALL, out_stages=(2,)).stages) == 1


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'nano'}, "not 'nano'"), ({'version': 3}, 'not 3'),
    ({'num_heads': (1, 2)}, 'each stage needs an entry'), ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**arguments)


@pytest.mark.parametrize('always', [False, True])
def test_a_map_that_one_window_covers_is_seen_in_parts_where_it_is_always_shifted(always):
    torch.manual_seed(0)
    block = SwinBlock(WindowAttention(8, (4, 4), 2), 8, (4, 4), is_shifted=True,
                      is_post_norm=False, always_shift=always).eval()
    x = torch.randn(1, 4, 4, 8)
    other = x.clone()
    other[0, 0, 0, 0] += 5
    changed = (block(x) - block(other)).abs().amax(-1)[0] > 1e-6
    expected = torch.ones(4, 4, dtype=torch.bool)
    if always:
        expected[2:], expected[:, 2:] = False, False
    assert torch.equal(changed, expected)
