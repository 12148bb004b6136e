import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer

from openlab.backbones.mlp_mixer import MLPMixer
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'embed_dim': 32, 'depth': 2, 'patch_size': 8, 'image_size': 32}


def test_mixer_equals_timm_with_the_same_weights():
    peer = MlpMixer(img_size=32, patch_size=8, embed_dim=32, num_blocks=2, num_classes=7)
    assert_equal_to_peer(MLPMixer(**SMALL), peer, key_map(MLPMixer, 'timm'))


@pytest.mark.parametrize(('size', 'name'), [
    ('small', 'mixer_s16_224'), ('base', 'mixer_b16_224'), ('large', 'mixer_l16_224')])
def test_parameter_count_equals_timm(size, name):
    with torch.device('meta'):
        assert count(MLPMixer(size)) == count(timm.create_model(name, num_classes=0))


def test_names_of_openmmlab_are_all_accounted_for():
    D, N = 32, 16
    theirs = {'patch_embed.projection.weight': (D, 3, 8, 8), 'patch_embed.projection.bias': (D,),
              'ln1.weight': (D,), 'ln1.bias': (D,)}
    for i in range(2):
        for mix, size, hidden in (('token', N, D // 2), ('channel', D, 4 * D)):
            at = f'layers.{i}.{mix}_mix.layers.'
            theirs |= {f'{at}0.0.weight': (hidden, size), f'{at}0.0.bias': (hidden,),
                       f'{at}1.weight': (size, hidden), f'{at}1.bias': (size,)}
        theirs |= {f'layers.{i}.ln{n}.{p}': (D,) for n in (1, 2) for p in ('weight', 'bias')}
    assert_names_fit(MLPMixer(**SMALL), key_map(MLPMixer, 'openmmlab'), theirs)


def test_maps_of_all_blocks_have_the_promised_channels_and_strides():
    net = MLPMixer(**SMALL, out_stages=(1, 2))
    maps = net(torch.randn(1, 3, 32, 32))
    assert [m.shape for m in maps] == [(1, 32, 4, 4)] * 2
    assert (net.out_channels, net.strides) == ((32, 32), (8, 8))


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'tiny'}, "not 'tiny'"), ({'image_size': 30}, 'multiple of patch_size=16'),
    ({'out_stages': (13,)}, 'within 1 to 12')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPMixer(**arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match='image_size=32, not 64 x 32'):
        MLPMixer(**SMALL)(torch.zeros(1, 3, 64, 32))
