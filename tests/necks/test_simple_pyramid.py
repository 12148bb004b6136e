"""The simple pyramid against its description in ViTDet's paper, layer by layer."""

import pytest
import torch
import torch.nn.functional as F

from openlab.necks.simple_pyramid import SimplePyramid


def normalised(x, norm):
    return F.layer_norm(x.movedim(1, -1), norm.normalized_shape, norm.weight, norm.bias,
                        1e-6).movedim(-1, 1)


def ends(level, x):
    """1x1, norm, 3x3, norm: how every level ends."""
    x = normalised(F.conv2d(x, level.lateral.weight), level.lateral_norm)
    return normalised(F.conv2d(x, level.smooth.weight, padding=1), level.smooth_norm)


def test_levels_are_those_of_the_paper():
    torch.manual_seed(0)
    neck, x = SimplePyramid((16,), 8), torch.randn(2, 16, 6, 4)
    for norm in (m for m in neck.modules() if isinstance(m, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    fine, eighth, same, coarse = neck.levels

    def up(conv, y):
        return F.conv_transpose2d(y, conv.weight, conv.bias, 2)

    expected = (
        ends(fine, up(fine.up1, F.gelu(normalised(up(fine.up0, x), fine.norm0)))),
        ends(eighth, up(eighth.up0, x)), ends(same, x), ends(coarse, F.max_pool2d(x, 2)))
    for found, wanted in zip(neck([x]), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert [tuple(f.shape[2:]) for f in neck([x])] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    assert neck.out_channels == (8,) * 4
    assert (fine.up1.out_channels, eighth.up0.out_channels) == (4, 8)


def test_only_the_last_map_is_read():
    neck = SimplePyramid((5, 16), 8, in_stride=32, strides=(16, 32))
    assert [f.shape[2] for f in neck([torch.ones(1, 5, 9, 9), torch.ones(1, 16, 3, 3)])] == [6, 3]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'in_stride': 14}, 'in_stride=14'), ({'strides': (4, 12)}, 'powers of two'),
    ({'strides': (8, 4)}, 'must not fall')])
def test_strides_that_cannot_be_made_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimplePyramid((16,), **arguments)
