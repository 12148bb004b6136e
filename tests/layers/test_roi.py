import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from openlab.layers.roi import PyramidRoIAlign, to_rois


def make_pyramid(image_size, channels=3, levels=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, -(-image_size[0] // 2**k), -(-image_size[1] // 2**k),
                        generator=generator) for k in range(2, 2 + levels)]


@pytest.mark.parametrize('image_size', [(256, 320), (250, 316)])
def test_regions_of_all_sizes_are_pooled_as_torchvision_pools_them(image_size):
    feats = make_pyramid(image_size)
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(40, 2, generator=generator) * 100
    side = 2 ** (torch.rand(40, 2, generator=generator) * 8 - 0.5)
    boxes = torch.cat([start, start + side], dim=1)
    boxes[0] = torch.tensor([0.0, 0, 224, 224])  # just the canonical size
    parts = [boxes[:25], boxes[25:]]
    pooled = PyramidRoIAlign(7)(feats, to_rois(parts), image_size)
    named = {str(i): x for i, x in enumerate(feats)}
    expected = MultiScaleRoIAlign(['0', '1', '2', '3'], 7, 2)(named, parts, [image_size] * 2)
    torch.testing.assert_close(pooled, expected)


def test_gradients_reach_every_level_that_is_used():
    feats = [x.requires_grad_() for x in make_pyramid((512, 512), channels=1)]
    sizes = torch.tensor([30.0, 120, 230, 460])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sizes, sizes], dim=1)
    PyramidRoIAlign(2)(feats, to_rois([boxes]), (512, 512)).sum().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in feats] == [True] * 4 + [False]


def test_one_level_is_enough():
    feat = torch.arange(16.0).view(1, 1, 4, 4)
    rois = to_rois([torch.tensor([[0.0, 0, 16, 16]])])
    pooled = PyramidRoIAlign(1, num_levels=1)([feat], rois, (16, 16))
    # two samples along each side, in rows 1 and 3 and columns 1 and 3
    assert pooled.item() == pytest.approx((5 + 7 + 13 + 15) / 4)


def test_rois_name_their_image():
    rois = to_rois([torch.ones(1, 4), torch.zeros(0, 4), torch.full((2, 4), 2.0)])
    assert rois.tolist() == [[0, 1, 1, 1, 1], [2, 2, 2, 2, 2], [2, 2, 2, 2, 2]]
