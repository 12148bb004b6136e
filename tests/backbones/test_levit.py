import pytest
import timm
import torch
from timm.models.levit import LevitDistilled
from torch import nn
from transformers import LevitConfig, LevitForImageClassificationWithTeacher

from openlab.backbones.levit import LeViT
from openlab.heads.distilled_head import DistilledHead
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, key_map

SMALL = {'channels': (16, 24, 32), 'key_dim': 8, 'num_heads': (1, 2, 3), 'num_blocks': (2, 1, 1)}
PEER = {'embed_dim': (16, 24, 32), 'key_dim': 8, 'num_heads': (1, 2, 3), 'depth': (2, 1, 1),
        'num_classes': 7}
SIZES = ['128s', '128', '192', '256', '384']


def distilled_head():
    return DistilledHead(7, 32, norm={'type': nn.BatchNorm1d})


@pytest.mark.parametrize('use_conv', [False, True])
def test_levit_equals_timm_with_the_same_weights(use_conv):
    # 112 px: maps of 7, 4 and 2
    peer = LevitDistilled(img_size=112, **PEER, use_conv=use_conv)
    assert_equal_to_peer(LeViT(**SMALL, image_size=112), peer, key_map(LeViT, 'timm'), size=112,
                         head=distilled_head())


class Transformers(nn.Module):
    """Logits, and names without the prefix that a loader removes."""

    def __init__(self):
        super().__init__()
        self.net = LevitForImageClassificationWithTeacher(LevitConfig(
            image_size=112, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 3],
            depths=[2, 3, 4], key_dim=[8, 8, 8], num_labels=7))

    def named_parameters(self, *args, **kwargs):
        return self.net.named_parameters(*args, **kwargs)

    def state_dict(self, *args, **kwargs):
        return self.net.state_dict(*args, **kwargs)

    def forward(self, x):
        return self.net(x).logits


def test_levit_equals_transformers_with_the_same_weights():
    peer = Transformers()
    ours = LeViT(**SMALL | {'num_blocks': (2, 3, 4)}, image_size=112)
    assert_equal_to_peer(ours, peer, key_map(LeViT, 'transformers', peer.state_dict()), size=112,
                         head=distilled_head())


@pytest.mark.parametrize('size', SIZES)
def test_names_and_shapes_of_every_size_are_those_of_timm(size):
    with torch.device('meta'):
        ours, peer = LeViT(size), timm.create_model(f'levit_{size}')
    assert_names_fit(ours, key_map(LeViT, 'timm'),
                     {k: v.shape for k, v in peer.state_dict().items()})


def test_names_of_a_regular_network_are_those_of_transformers():
    config = LevitConfig(hidden_sizes=[128, 256, 384], num_attention_heads=[4, 8, 12],
                         depths=[4, 4, 4], key_dim=[16, 16, 16], image_size=64)
    with torch.device('meta'):
        ours = LeViT('128', image_size=64)
    state = LevitForImageClassificationWithTeacher(config).state_dict()
    assert_names_fit(ours, key_map(LeViT, 'transformers', state),
                     {k: v.shape for k, v in state.items()})


def openmmlab_names():
    """Names and shapes as in the published checkpoints, for the small network at 224 px."""
    def brick(name, *shape):
        layer = 'conv' if len(shape) == 4 else 'linear'
        return {f'{name}.{layer}.weight': shape} | {
            f'{name}.bn.{part}': shape[:1]
            for part in ('weight', 'bias', 'running_mean', 'running_var')}

    def attention(name, heads, places, key, value, channels, out):
        return ({f'{name}.attention_biases': (heads, places),
                 f'{name}.attention_bias_idxs': (places, places)}
                | brick(f'{name}.{key}', heads * value, channels)
                | brick(f'{name}.proj.1', out, heads * (16 if key == 'qkv' else 32)))

    def mlp(name, channels):
        return brick(f'{name}.block.linear1', 2 * channels, channels) | brick(
            f'{name}.block.linear2', channels, 2 * channels)

    names, widths = {}, (3, 2, 4, 8, 16)
    for i in range(4):
        names |= brick(f'patch_embed.patch_embed.{2 * i}', widths[i + 1], widths[i], 3, 3)
    for stage, (C, heads, depth, side) in enumerate(zip(
            SMALL['channels'], SMALL['num_heads'], SMALL['num_blocks'], (14, 7, 4))):
        at, first = f'stages.{stage}', 0
        if stage:
            before, many = SMALL['channels'][stage - 1], SMALL['channels'][stage - 1] // 8
            names |= attention(f'{at}.0', many, (14, 7)[stage - 1] ** 2, 'kv', 40, before, C)
            names |= brick(f'{at}.0.q.1', many * 8, before) | mlp(f'{at}.1', C)
            first = 2
        for i in range(depth):
            names |= attention(f'{at}.{first + 2 * i}.block', heads, side**2, 'qkv', 32, C, C)
            names |= mlp(f'{at}.{first + 2 * i + 1}', C)
    return names


def test_names_of_openmmlab_are_all_accounted_for():
    assert_names_fit(LeViT(**SMALL), key_map(LeViT, 'openmmlab'), openmmlab_names())


def test_names_of_openmmlabs_classifiers_are_all_accounted_for():
    names = {}
    for branch in ('head', 'head_dist'):
        names |= {f'{branch}.linear.weight': (7, 32), f'{branch}.linear.bias': (7,)}
        names |= {f'{branch}.bn.{part}': (32,)
                  for part in ('weight', 'bias', 'running_mean', 'running_var')}
    assert_names_fit(distilled_head(), next(
        m for m in DistilledHead.weights if m.matches(dict.fromkeys(names))), names)


def test_maps_of_all_stages_equal_timm():
    torch.manual_seed(0)
    peer = LevitDistilled(img_size=112, **PEER).eval()
    ours = LeViT(**SMALL, image_size=112, out_stages=(4, 5, 6)).eval()
    state = key_map(LeViT, 'timm').apply(peer.state_dict())
    ours.load_state_dict({k: v for k, v in state.items() if k[0] != '.'})
    images = torch.randn(1, 3, 112, 112)
    expected = peer.forward_intermediates(images, intermediates_only=True)
    for got, theirs in zip(ours(images), expected, strict=True):
        torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-5)


def test_maps_of_other_image_sizes_have_the_promised_channels_and_strides():
    net = LeViT(**SMALL, image_size=112, out_stages=(4, 5, 6))
    maps = net(torch.randn(2, 3, 128, 192))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [16, 24, 32]
    assert [(128 // m.shape[2], 192 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_sizes_of_maps_are_rounded_up():
    maps = LeViT(**SMALL, image_size=112, out_stages=(4, 5, 6)).eval()(torch.randn(1, 3, 100, 112))
    assert [tuple(m.shape[2:]) for m in maps] == [(7, 7), (4, 4), (2, 2)]


def test_weights_of_another_image_size_load_with_interpolated_biases():
    large = LeViT(**SMALL, image_size=160).eval()
    large.load_state_dict(LeViT(**SMALL, image_size=112).state_dict())
    assert large(torch.randn(1, 3, 160, 160))[0].isfinite().all()


def test_stages_after_the_last_wanted_one_are_not_built():
    assert len(LeViT(**SMALL, out_stages=(4,)).stages) == 1


def test_biases_of_distances_are_left_out_of_weight_decay():
    net = LeViT(**SMALL)
    assert len(net.no_weight_decay()) == 6
    assert net.no_weight_decay() <= {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': '64'}, "not '64'"), ({'channels': (16, 24)}, 'each of the 3 stages'),
    ({'channels': (20, 24, 32)}, 'multiple of 8'), ({'out_stages': (3,)}, 'within 4 to 6')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeViT(**arguments)
