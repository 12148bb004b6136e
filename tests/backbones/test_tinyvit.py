import pytest
import timm
import torch
from timm.models.tiny_vit import TinyVit

from openlab.backbones.tinyvit import TinyViT, TinyViTBlock
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, key_map

SMALL = {'channels': (8, 16, 24, 32), 'num_blocks': (1, 1, 2, 1), 'num_heads': (1, 2, 2, 4)}
PEER = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 1, 2, 1), 'num_heads': (1, 2, 2, 4),
        'num_classes': 7, 'drop_path_rate': 0.0}


@pytest.mark.parametrize('size', [64, 80])  # 80 px: maps of 10 and 5 are padded to whole windows
def test_tinyvit_equals_timm_with_the_same_weights(size):
    peer = TinyVit(**PEER, window_sizes=(2, 2, 4, 2))
    ours = TinyViT(**SMALL, window_size=2, output='mean')
    assert_equal_to_peer(ours, peer, key_map(TinyViT, 'timm'), size=size)


@pytest.mark.parametrize(('name', 'size', 'window'), [
    ('5m_224', '5m', 7), ('11m_224', '11m', 7), ('21m_224', '21m', 7), ('21m_384', '21m', 12),
    pytest.param('21m_512', '21m', 16, marks=pytest.mark.slow)])
def test_names_and_shapes_of_every_size_are_those_of_timm(name, size, window):
    with torch.device('meta'):
        ours, peer = TinyViT(size, window), timm.create_model(f'tiny_vit_{name}')
    assert_names_fit(ours, key_map(TinyViT, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


def openmmlab_names():
    """Names and shapes as in the published checkpoints, for the small network."""
    def brick(name, out, inside, kernel):
        return {f'{name}.conv2d.weight': (out, inside, kernel, kernel)} | {
            f'{name}.bn2d.{part}': (out,)
            for part in ('weight', 'bias', 'running_mean', 'running_var')}

    names = brick('patch_embed.seq.0', 4, 3, 3) | brick('patch_embed.seq.2', 8, 4, 3)
    names |= brick('stages.0.blocks.0.conv1', 32, 8, 1)
    names |= brick('stages.0.blocks.0.conv2', 32, 1, 3)
    names |= brick('stages.0.blocks.0.conv3', 8, 32, 1)
    C = SMALL['channels']
    for i in range(3):
        names |= brick(f'stages.{i}.downsample.conv1', C[i + 1], C[i], 1)
        names |= brick(f'stages.{i}.downsample.conv2', C[i + 1], 1, 3)
        names |= brick(f'stages.{i}.downsample.conv3', C[i + 1], C[i + 1], 1)
    for i in (1, 2, 3):
        D, heads, window = C[i], SMALL['num_heads'][i], (2, 4, 2)[i - 1]
        for j in range(SMALL['num_blocks'][i]):
            at = f'stages.{i}.blocks.{j}'
            names |= {f'{at}.attn.attention_biases': (heads, window**2)}
            names |= brick(f'{at}.local_conv', D, 1, 3)
            for part, out, inside in (('attn.qkv', 3 * D, D), ('attn.proj', D, D),
                                      ('mlp.fc1', 4 * D, D), ('mlp.fc2', D, 4 * D)):
                names |= {f'{at}.{part}.weight': (out, inside), f'{at}.{part}.bias': (out,)}
            for part in ('attn.norm', 'mlp.norm'):
                names |= {f'{at}.{part}.weight': (D,), f'{at}.{part}.bias': (D,)}
    return names | {'norm3.weight': (32,), 'norm3.bias': (32,)}


def test_names_of_openmmlab_are_all_accounted_for():
    assert_names_fit(TinyViT(**SMALL, window_size=2), key_map(TinyViT, 'openmmlab'),
                     openmmlab_names())


def test_maps_of_all_stages_equal_timm_before_the_norm():
    torch.manual_seed(0)
    peer = TinyVit(**PEER, window_sizes=(2, 2, 4, 2)).eval()
    ours = TinyViT(**SMALL, window_size=2, out_stages=(2, 3, 4, 5)).eval()
    state = key_map(TinyViT, 'timm').apply(peer.state_dict())
    ours.load_state_dict({k: v for k, v in state.items() if k[0] != '.'}, strict=False)
    images = torch.randn(1, 3, 64, 64)
    expected = peer.forward_intermediates(images, intermediates_only=True)
    for got, theirs in zip(ours(images), expected, strict=True):
        normal = torch.nn.functional.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2])
        torch.testing.assert_close(got, normal.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = TinyViT(**SMALL, window_size=2, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 96, 64))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 24, 32]
    assert [(96 // m.shape[2], 64 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_weights_of_another_window_load_with_interpolated_biases():
    large = TinyViT(**SMALL, window_size=3)
    large.load_state_dict(TinyViT(**SMALL, window_size=2).state_dict())
    assert large(torch.randn(2, 3, 64, 64))[0].isfinite().all()


def test_stages_after_the_last_wanted_one_are_not_built():
    assert len(TinyViT(**SMALL, out_stages=(3,)).stages) == 2


def test_biases_of_distances_are_left_out_of_weight_decay():
    net = TinyViT(**SMALL)
    assert len(net.no_weight_decay()) == 4
    assert net.no_weight_decay() <= {name for name, _ in net.named_parameters()}


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match='10 channels cannot be split over num_heads=4'):
        TinyViTBlock(10, 4, 2)


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': '50m'}, "not '50m'"), ({'output': 'map'}, "not 'map'"),
    ({'channels': (8, 16)}, 'each of the 4 stages'),
    ({'output': 'mean', 'out_stages': (4, 5)}, 'gives one stage'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        TinyViT(**arguments)
