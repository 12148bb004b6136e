"""The decoder of U-Net against the paper's figure, written out."""

import pytest
import torch
import torch.nn.functional as F

from openlab.necks.unet import UNetDecoder


def test_each_map_is_joined_with_the_enlarged_coarser_one():
    torch.manual_seed(0)
    neck = UNetDecoder((4, 6, 8), num_convs=2).train()
    feats = torch.randn(2, 4, 12, 8), torch.randn(2, 6, 6, 4), torch.randn(2, 8, 3, 2)

    def convolved(x, block):
        y = F.conv2d(x, block.conv.weight, padding=1)
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, correction=0)
        return ((y - mean) / (var + 1e-5).sqrt()).relu()

    expected = [feats[2]]
    for fine, join in ((feats[1], neck.joins[1]), (feats[0], neck.joins[0])):
        y = torch.cat([fine, expected[0].repeat_interleave(2, 2).repeat_interleave(2, 3)], 1)
        expected.insert(0, convolved(convolved(y, join[0]), join[1]))
    for found, wanted in zip(neck(feats), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert neck.out_channels == (4, 6, 8)


def test_the_papers_way_up_is_a_transposed_convolution():
    torch.manual_seed(0)
    neck = UNetDecoder((4, 6), num_convs=1, upsample='deconv').eval()
    feats = torch.randn(2, 4, 6, 8), torch.randn(2, 6, 3, 4)
    weight, bias = neck.ups[0].weight, neck.ups[0].bias  # (6, 4, 2, 2)
    up = torch.zeros(2, 4, 6, 8)
    for y in range(2):
        for x in range(2):
            up[:, :, y::2, x::2] = torch.einsum('bchw,cd->bdhw', feats[1], weight[:, :, y, x])
    joined = torch.cat([feats[0], up + bias[:, None, None]], 1)
    torch.testing.assert_close(neck(feats)[0], neck.joins[0](joined))


@pytest.mark.parametrize('upsample', ['nearest', 'deconv'])
def test_maps_of_odd_sizes_fit(upsample):
    feats = torch.randn(2, 4, 7, 5), torch.randn(2, 6, 4, 3)
    outs = UNetDecoder((4, 6), num_convs=1, upsample=upsample)(feats)
    assert [f.shape for f in outs] == [f.shape for f in feats]


def test_every_map_gets_a_gradient():
    feats = [torch.randn(1, 4, 8, 8, requires_grad=True),
             torch.randn(1, 6, 4, 4, requires_grad=True)]
    UNetDecoder((4, 6))(feats)[0].square().sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in feats)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match='got 1 maps but was built for 2'):
        UNetDecoder((4, 6))([torch.randn(1, 4, 8, 8)])
    with pytest.raises(ValueError, match='num_convs of at least 1, got 0'):
        UNetDecoder((4, 6), num_convs=0)
    with pytest.raises(ValueError, match="upsample='nearest' or 'deconv', not 'bilinear'"):
        UNetDecoder((4, 6), upsample='bilinear')
