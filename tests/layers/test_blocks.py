import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import nn
from torchvision.ops import SqueezeExcitation
from torchvision.ops.misc import FrozenBatchNorm2d

from openlab.layers.act import make_act
from openlab.layers.attention import Attention
from openlab.layers.conv import ConvNormAct
from openlab.layers.init import init_conv_net, zero_scale
from openlab.layers.norm import LayerNorm2d, make_norm
from openlab.layers.patch_embed import PatchEmbed
from openlab.layers.pool import GlobalPool
from openlab.layers.position import resize_position
from openlab.layers.se import SqueezeExcite


def test_convolution_keeps_the_size_at_any_dilation():
    x = torch.randn(1, 4, 9, 9)
    for kernel, dilation in [(1, 1), (3, 1), (3, 2), (5, 3)]:
        assert ConvNormAct(4, 6, kernel, dilation=dilation)(x).shape == (1, 6, 9, 9)


def test_convolution_has_a_bias_only_without_a_norm():
    assert ConvNormAct(4, 6).conv.bias is None
    assert ConvNormAct(4, 6, with_norm=False).conv.bias is not None
    names = [n for n, _ in ConvNormAct(4, 6, with_norm=False, with_act=False).named_children()]
    assert names == ['conv']


@pytest.mark.parametrize(('norm', 'kind'), [
    (None, nn.BatchNorm2d), ({'type': 'BatchNorm2d', 'eps': 1e-3}, nn.BatchNorm2d),
    ({'type': 'LayerNorm2d'}, LayerNorm2d), ({'type': 'GroupNorm', 'num_groups': 2}, nn.GroupNorm),
    ({'type': 'torchvision.ops.FrozenBatchNorm2d'}, FrozenBatchNorm2d)])
def test_norms_are_made_from_classes_names_and_dotted_paths(norm, kind):
    layer = make_norm(4, norm)
    assert type(layer) is kind
    assert layer(torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)


@pytest.mark.parametrize('options', [
    {}, {'bias': True, 'with_act': False}, {'padding': 'same', 'stride': 2, 'groups': 2},
    {'norm': {'type': 'FrozenBatchNorm2d'}}, {'norm': {'type': 'BatchNorm2d', 'affine': False}}])
def test_norm_with_fixed_statistics_is_folded_into_the_kernel(options):
    torch.manual_seed(0)
    layer = ConvNormAct(4, 6, **options).eval()
    for tensor in layer.norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    x = torch.randn(2, 4, 430, 430, requires_grad=True)
    assert layer._is_folding_cheaper(x)
    folded = layer(x)
    plain = nn.Sequential.forward(layer, x)
    torch.testing.assert_close(folded, plain)
    wanted = [x, *layer.parameters()]
    for mine, other in zip(torch.autograd.grad(folded.square().mean(), wanted),
                           torch.autograd.grad(plain.square().mean(), wanted), strict=True):
        assert (mine - other).abs().max() < 1e-4 * other.abs().max()


def test_norm_is_not_folded_where_it_learns_where_maps_are_small_or_where_somebody_listens():
    layer = ConvNormAct(4, 6)
    x = torch.randn(2, 4, 250, 250)
    assert not layer._is_folding_cheaper(x)
    layer.eval()
    assert layer._is_folding_cheaper(x) and not layer._is_folding_cheaper(x[:, :, :3, :3])
    assert not ConvNormAct(4, 6, norm={'type': 'GroupNorm', 'num_groups': 2})._is_folding_cheaper(x)
    seen = []
    layer.norm.register_forward_hook(lambda *_: seen.append(1))
    layer(x)
    assert seen == [1]


def test_layer_norm_of_maps_normalises_the_channels_of_each_position():
    x = torch.randn(2, 8, 3, 5)
    layer = LayerNorm2d(8)
    expected = F.layer_norm(x[1, :, 2, 4], (8,))
    torch.testing.assert_close(layer(x)[1, :, 2, 4], expected)


def test_activations_work_in_place_where_they_can():
    assert make_act().inplace is True
    assert make_act({'type': 'ReLU', 'inplace': False}).inplace is False
    assert isinstance(make_act({'type': nn.GELU}), nn.GELU)


def test_squeeze_excite_equals_torchvision():
    ours, peer = SqueezeExcite(8, 2), SqueezeExcitation(8, 2)
    ours.load_state_dict({
        k.replace('fc1', 'reduce').replace('fc2', 'expand'): v
        for k, v in peer.state_dict().items()})
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(ours(x), peer(x))


def test_attention_equals_the_formula():
    layer = Attention(8, 2).eval()
    x = torch.randn(2, 5, 8)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = (q[..., h] @ k[..., h].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., h])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, -1)))


def test_attention_does_not_see_what_the_mask_hides():
    layer = Attention(8, 2).eval()
    x = torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, False, False]])
    changed = x.clone()
    changed[:, 2:] += 1
    torch.testing.assert_close(layer(x, mask)[:, :2], layer(changed, mask)[:, :2])


def test_positions_are_resized_as_timm_does_and_prefix_tokens_stay():
    position = torch.randn(1, 1 + 12, 6)
    ours = resize_position(position, (3, 4), (5, 2), num_prefix=1)
    peer = resample_abs_pos_embed(position, [5, 2], [3, 4], num_prefix_tokens=1)
    torch.testing.assert_close(ours, peer)
    assert resize_position(position, (3, 4), (3, 4), 1) is position
    with pytest.raises(ValueError, match='13 positions cannot be 0 and a grid of 3 x 4'):
        resize_position(position, (3, 4), (5, 2))


def test_patches_are_linear_maps_of_their_pixels():
    layer = PatchEmbed(2, 3, 5)
    x = torch.randn(1, 3, 4, 6)
    patch = x[0, :, 2:4, 4:6].reshape(-1)
    expected = layer.proj.weight.flatten(1) @ patch + layer.proj.bias
    torch.testing.assert_close(layer(x)[0, :, 1, 2], expected)


def test_pooling_takes_the_mean_or_the_maximum_of_all_positions():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert GlobalPool()(x).item() == 3
    assert GlobalPool('max')(x).item() == 6
    with pytest.raises(ValueError, match="'mean' and 'max', not 'sum'"):
        GlobalPool('sum')


def test_convolutions_start_with_the_variance_of_he():
    net = ConvNormAct(64, 64, with_norm=False)
    init_conv_net(net)
    assert net.conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not net.conv.bias.any()


def test_norms_without_a_trained_scale_are_left_alone():
    frozen = FrozenBatchNorm2d(4)
    zero_scale(frozen)
    assert frozen.weight.tolist() == [1, 1, 1, 1]
    zero_scale(nn.Identity())
