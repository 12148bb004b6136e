import pytest
import timm
import torch
from timm.models.efficientformer import EfficientFormer as TimmEfficientFormer

from openlab.backbones.efficientformer import EfficientFormer, PoolBlock
from openlab.heads.distilled_head import DistilledHead
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, key_map

SMALL = {'channels': (8, 16, 24, 32), 'num_blocks': (1, 1, 2, 3), 'num_attending': 1}
PEER = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 1, 2, 3), 'num_classes': 7}


@pytest.mark.parametrize('num_attending', [1, 3])
def test_efficientformer_equals_timm_with_the_same_weights(num_attending):
    peer = TimmEfficientFormer(**PEER, num_vit=num_attending)
    ours = EfficientFormer(**SMALL | {'num_attending': num_attending})
    # timm knows no other size
    assert_equal_to_peer(ours, peer, key_map(EfficientFormer, 'timm'), size=224,
                         head=DistilledHead(7, 32))


@pytest.mark.parametrize('size', ['l1', 'l3', 'l7'])
def test_names_and_shapes_of_every_size_are_those_of_timm(size):
    with torch.device('meta'):
        ours, peer = EfficientFormer(size), timm.create_model(f'efficientformer_{size}')
    assert_names_fit(ours, key_map(EfficientFormer, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


def openmmlab_names():
    """Names and shapes as in the published checkpoints, for the small network."""
    def norm(name, channels, with_statistics=True):
        statistics = ('running_mean', 'running_var') if with_statistics else ()
        return {f'{name}.{part}': (channels,) for part in ('weight', 'bias', *statistics)}

    def layer(name, *shape):
        return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}

    C, names = SMALL['channels'], {}
    for i, (out, inside) in enumerate(((4, 3), (8, 4))):
        names |= layer(f'patch_embed.{i}.conv', out, inside, 3, 3)
        names |= norm(f'patch_embed.{i}.bn', out)
    for i, depth in enumerate((1, 1, 2, 2)):
        if i:
            names |= layer(f'network.{i}.0.conv', C[i], C[i - 1], 3, 3)
            names |= norm(f'network.{i}.0.bn', C[i])
        for j in range(depth):
            at = f'network.{i}.{j + bool(i)}'
            names |= layer(f'{at}.mlp.fc1', 4 * C[i], C[i], 1, 1)
            names |= layer(f'{at}.mlp.fc2', C[i], 4 * C[i], 1, 1)
            names |= norm(f'{at}.mlp.norm1', 4 * C[i]) | norm(f'{at}.mlp.norm2', C[i])
            names |= {f'{at}.ls1.weight': (C[i],), f'{at}.ls2.weight': (C[i],)}
    at = 'network.3.4'  # place 3 is that of the change from map to tokens
    for part, shape in (('token_mixer.qkv', (1536, 32)), ('token_mixer.proj', (32, 1024)),
                        ('mlp.fc1', (128, 32)), ('mlp.fc2', (32, 128))):
        names |= layer(f'{at}.{part}', *shape)
    names |= norm(f'{at}.norm1', 32, False) | norm(f'{at}.norm2', 32, False)
    return names | norm('norm3', 32, False) | {
        f'{at}.token_mixer.attention_biases': (8, 49),
        f'{at}.token_mixer.attention_bias_idxs': (49, 49),
        f'{at}.ls1.weight': (32,), f'{at}.ls2.weight': (32,)}


def test_names_of_openmmlab_are_all_accounted_for():
    assert_names_fit(EfficientFormer(**SMALL), key_map(EfficientFormer, 'openmmlab'),
                     openmmlab_names())


def test_a_constant_map_passes_the_local_mean_unchanged():
    block = PoolBlock(2, layer_scale=1.0).eval()
    torch.nn.init.zeros_(block.mlp.norm2.weight)
    x = torch.tensor([1.0, 3.0])[None, :, None, None].expand(1, 2, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_maps_of_other_image_sizes_have_the_promised_channels_and_strides():
    net = EfficientFormer(**SMALL, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 96, 128))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 24, 32]
    assert [(96 // m.shape[2], 128 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_weights_of_another_image_size_load_with_interpolated_biases():
    large = EfficientFormer(**SMALL, image_size=128).eval()
    large.load_state_dict(EfficientFormer(**SMALL, image_size=64).state_dict())
    assert large.stages[3].blocks[3].attn.bias.table.shape == (8, 16)
    assert large(torch.randn(1, 3, 128, 128))[0].isfinite().all()


def test_without_attention_every_block_pools():
    net = EfficientFormer(**SMALL | {'num_attending': 0}).eval()
    assert not [name for name in net.state_dict() if 'attn' in name]
    assert net(torch.randn(1, 3, 64, 64))[0].shape == (1, 32, 2, 2)


def test_stages_after_the_last_wanted_one_are_not_built():
    assert len(EfficientFormer(**SMALL, out_stages=(3,)).stages) == 2


def test_biases_of_distances_are_left_out_of_weight_decay():
    assert EfficientFormer(**SMALL).no_weight_decay() == {'stages.3.blocks.3.attn.bias.table'}


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'l2'}, "not 'l2'"), ({'channels': (8, 16)}, 'each of the 4 stages'),
    ({'num_attending': 5}, 'within 0 to the 4 blocks'), ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        EfficientFormer(**arguments)
