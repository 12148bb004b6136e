import pytest
import timm
import torch
from timm.models.twins import Twins as TimmTwins

from openlab.backbones.twins import Twins
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'embed_dims': (8, 16, 16, 32), 'num_blocks': (2, 1, 2, 1), 'num_heads': (1, 2, 2, 4),
         'mlp_ratios': (2, 2, 2, 2), 'drop_path': 0}


@pytest.mark.parametrize('kind', ['pcpvt', 'svt'])
def test_twins_equals_timm_with_the_same_weights(kind):
    peer = TimmTwins(
        img_size=64, embed_dims=(8, 16, 16, 32), depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4),
        mlp_ratios=(2, 2, 2, 2), wss=(3, 3, 3, 3) if kind == 'svt' else None, num_classes=7)
    ours = Twins(f'{kind}_small', **SMALL, window_size=3)  # windows of 3 need padding
    assert_equal_to_peer(ours, peer, key_map(Twins, 'timm'), size=64)


@pytest.mark.parametrize('kind', ['pcpvt', 'svt'])
@pytest.mark.parametrize('size', ['small', 'base', 'large'])
def test_names_of_all_sizes_equal_timm(kind, size):
    with torch.device('meta'):
        peer = timm.create_model(f'twins_{kind}_{size}', num_classes=0)
        ours = Twins(f'{kind}_{size}')
    assert count(ours) == count(peer)
    assert_names_fit(ours, key_map(Twins, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


def test_names_of_openmmlab_are_all_accounted_for():
    """Names and shapes as in the published Twins-SVT, for one stage of two blocks."""
    D = 8
    norms = {f'{n}.{p}': (D,) for n in ('norm1', 'norm2') for p in ('weight', 'bias')}
    ffn = {'ffn.layers.0.0.weight': (2 * D, D), 'ffn.layers.0.0.bias': (2 * D,),
           'ffn.layers.1.weight': (D, 2 * D), 'ffn.layers.1.bias': (D,),
           'attn.proj.weight': (D, D), 'attn.proj.bias': (D,)}
    windows = {'attn.qkv.weight': (3 * D, D), 'attn.qkv.bias': (3 * D,)}
    reduced = {'attn.q.weight': (D, D), 'attn.q.bias': (D,), 'attn.kv.weight': (2 * D, D),
               'attn.kv.bias': (2 * D,), 'attn.sr.weight': (D, D, 8, 8), 'attn.sr.bias': (D,),
               'attn.norm.weight': (D,), 'attn.norm.bias': (D,)}
    theirs = {f'stages.0.0.{k}': v for k, v in (norms | ffn | windows).items()}
    theirs |= {f'stages.0.1.{k}': v for k, v in (norms | ffn | reduced).items()}
    theirs |= {'patch_embeds.0.projection.weight': (D, 3, 4, 4),
               'patch_embeds.0.projection.bias': (D,), 'patch_embeds.0.norm.weight': (D,),
               'patch_embeds.0.norm.bias': (D,), 'position_encodings.0.proj.weight': (D, 1, 3, 3),
               'position_encodings.0.proj.bias': (D,), 'norm_after_stage0.weight': (D,),
               'norm_after_stage0.bias': (D,)}
    net = Twins('svt_small', **SMALL, out_stages=(2,))
    assert_names_fit(net, key_map(Twins, 'openmmlab'), theirs)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = Twins('svt_small', **SMALL, window_size=4, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 16, 32]
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'svt'}, "not 'svt'"), ({'num_heads': (1, 2)}, 'each stage needs an entry'),
    ({'out_stages': (6,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        Twins(**arguments)
