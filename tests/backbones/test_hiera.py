import pytest
import timm
import torch
from timm.models.hiera import Hiera as TimmHiera
from transformers import HieraConfig, HieraForImageClassification

from openlab.backbones.hiera import Hiera
from tests.backbones.parity import assert_equal_to_peer, assert_names_fit, count, key_map

SMALL = {'image_size': 64, 'embed_dim': 8, 'num_blocks': (1, 2, 2, 1), 'num_heads': 1,
         'drop_path': 0.0}
PEER = {'img_size': 64, 'embed_dim': 8, 'stages': (1, 2, 2, 1), 'num_classes': 7}
SIZES = ['tiny', 'small', 'base', 'base_plus', 'large', 'huge']


def test_hiera_equals_timm_with_the_same_weights():
    assert_equal_to_peer(Hiera(**SMALL, output='mean'), TimmHiera(**PEER), key_map(Hiera, 'timm'),
                         size=64)


def test_hiera_with_positions_of_windows_equals_timm():
    peer = TimmHiera(**PEER, abs_win_pos_embed=True, global_pos_size=(5, 5), init_values=0.1,
                     use_expand_proj=False)
    ours = Hiera(**SMALL, output='mean', with_window_position=True, position_grid=5,
                 layer_scale=0.1, with_projection=False)
    assert_equal_to_peer(ours, peer, key_map(Hiera, 'timm'), size=64)


def test_maps_of_all_stages_equal_timm():
    torch.manual_seed(0)
    peer = TimmHiera(**PEER).eval()
    ours = Hiera(**SMALL, out_stages=(2, 3, 4, 5)).eval()
    state = key_map(Hiera, 'timm').apply(peer.state_dict())
    ours.load_state_dict({k: v for k, v in state.items() if k[0] != '.'}, strict=False)
    images = torch.randn(1, 3, 64, 64)
    expected = peer.forward_intermediates(images, intermediates_only=True)
    for got, theirs in zip(ours(images), expected, strict=True):
        theirs = torch.nn.functional.layer_norm(  # our norms of early stages start as identity
            theirs.permute(0, 2, 3, 1), theirs.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-5)


class Transformers(torch.nn.Module):
    """Logits, and names without the prefix that a loader removes."""

    def __init__(self):
        super().__init__()
        net = HieraForImageClassification(HieraConfig(
            image_size=[64, 64], embed_dim=8, depths=[1, 2, 7, 2], num_labels=7))
        self.hiera, self.classifier = net.hiera, net.classifier

    def forward(self, x):
        return self.classifier(self.hiera(x).pooler_output)


def test_hiera_equals_transformers_with_the_same_weights():
    peer = Transformers()
    ours = Hiera(**SMALL | {'num_blocks': (1, 2, 7, 2)}, output='mean')
    assert_equal_to_peer(ours, peer, key_map(Hiera, 'transformers', peer.state_dict()), size=64)


@pytest.mark.parametrize('size', SIZES)
def test_names_and_shapes_of_every_size_are_those_of_timm(size):
    with torch.device('meta'):
        ours, peer = Hiera(size), timm.create_model(f'hiera_{size}_224')
    state = peer.state_dict()
    assert_names_fit(ours, key_map(Hiera, 'timm', state), {k: v.shape for k, v in state.items()})


@pytest.mark.parametrize(('size', 'depths'), [
    ('small', [1, 2, 11, 2]), ('base', [2, 3, 16, 3]), ('large', [2, 6, 36, 4])])
def test_names_of_every_depth_are_those_of_transformers(size, depths):
    with torch.device('meta'):
        peer = HieraForImageClassification(HieraConfig(embed_dim=16, depths=depths))
        ours = Hiera(size, embed_dim=16, num_heads=1)
    state = peer.state_dict()
    assert_names_fit(ours, key_map(Hiera, 'transformers', state),
                     {k: v.shape for k, v in state.items()})


def test_parameter_count_with_positions_of_windows_equals_timm():
    with torch.device('meta'):
        peer = timm.create_model('hiera_small_abswin_256', num_classes=0)
        ours = Hiera('small', with_window_position=True, position_grid=16, layer_scale=1e-5,
                     with_projection=False)
    assert count(ours) == count(peer)


def test_tokens_of_early_stages_see_their_window_of_32_pixels_only():
    net = Hiera(**SMALL, out_stages=(3,)).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    net(images)[0][0, 0, 0, 0].backward()
    seen = images.grad.abs().sum((0, 1)) > 0
    assert seen[:32, :32].any()
    assert not seen[34:].any() and not seen[:, 34:].any()  # the first convolution reaches 2 px on


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = Hiera(**SMALL, out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(1, 3, 96, 128))  # not the size that positions are learned for
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [8, 16, 32, 64]
    assert [(96 // m.shape[2], 128 // m.shape[3]) for m in maps] == [(s, s) for s in net.strides]


def test_weights_of_another_image_size_load_with_interpolated_positions():
    large = Hiera(**SMALL | {'image_size': 128})
    large.load_state_dict(Hiera(**SMALL).state_dict())
    assert large.position.shape == (1, 32 * 32, 8)


def test_blocks_after_the_last_wanted_stage_are_not_built():
    assert len(Hiera(**SMALL, out_stages=(3,)).blocks) == 3


def test_positions_are_left_out_of_weight_decay():
    assert Hiera(**SMALL).no_weight_decay() == {'position'}
    assert Hiera(**SMALL, with_window_position=True).no_weight_decay() == {
        'position', 'window_position'}


def test_an_image_that_is_not_whole_windows_is_refused():
    with pytest.raises(ValueError, match='multiples of 32, not 64 x 80'):
        Hiera(**SMALL)(torch.randn(1, 3, 64, 80))


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'nano'}, "not 'nano'"), ({'output': 'map'}, "not 'map'"),
    ({'output': 'mean', 'out_stages': (4, 5)}, 'gives one stage'),
    ({'image_size': 100}, 'multiple of 32'), ({'num_blocks': (1,) * 5}, '1 to 4 stages'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hiera(**arguments)
