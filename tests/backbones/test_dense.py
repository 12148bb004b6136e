"""The shell that lets any backbone serve dense tasks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openlab.backbones.dense import DenseBackbone
from openlab.backbones.mlp_mixer import MLPMixer
from openlab.backbones.vit import VisionTransformer
from openlab.necks.simple_pyramid import SimplePyramid

SMALL = {'embed_dim': 32, 'depth': 1, 'num_heads': 2, 'output': 'maps'}


class Patches(nn.Module):
    """Means of patches, of images whose sides are multiples of the patch only."""

    def __init__(self, stride, size=None):
        super().__init__()
        self.strides, self.out_channels, self.size = (stride,), (3,), size

    def forward(self, x):
        assert x.shape[2] % self.strides[0] == 0 == x.shape[3] % self.strides[0]
        assert self.size is None or x.shape[2:] == (self.size, self.size)
        return (F.avg_pool2d(x, self.strides[0]),)


def test_maps_of_padded_images_are_cut_to_the_image():
    x = torch.rand(2, 3, 40, 72)
    (found,) = DenseBackbone(Patches(16))(x)
    padded = F.avg_pool2d(F.pad(x, (0, 24, 0, 24)), 16)
    torch.testing.assert_close(found, padded[..., :3, :5])


def test_patches_of_14_pixels_step_by_16():
    shell = DenseBackbone(Patches(14))
    rows = torch.linspace(0, 1, 64)[:, None].expand(2, 3, 64, 96)
    (found,) = shell(rows)
    assert (shell.strides, found.shape[2:]) == ((16,), (4, 6))
    torch.testing.assert_close(found, F.avg_pool2d(rows, 16), atol=5e-3, rtol=0)


def test_windows_come_back_in_their_places():
    x = torch.rand(2, 3, 70, 100)
    (found,) = DenseBackbone(Patches(8, size=32), window=32)(x)
    padded = F.avg_pool2d(F.pad(x, (0, 28, 0, 26)), 8)
    torch.testing.assert_close(found, padded[..., :9, :13])


def test_a_mixer_sees_images_of_any_size():
    mixer = MLPMixer('small', image_size=32, patch_size=8, embed_dim=16, depth=1)
    shell = DenseBackbone(mixer, window=32).eval()
    x = torch.rand(1, 3, 64, 50)
    (found,) = shell(x)
    assert found.shape == (1, 16, 8, 7)
    torch.testing.assert_close(found[..., 4:, :4], mixer(x[..., 32:, :32])[0])


def test_a_pyramid_gives_the_strides_that_are_missing():
    vit = VisionTransformer(patch_size=16, image_size=64, **SMALL)
    neck = SimplePyramid(vit.out_channels, 8, strides=(4, 8, 16, 32))
    shell = DenseBackbone(vit, neck)
    assert (shell.strides, shell.out_channels) == ((4, 8, 16, 32), (8,) * 4)
    assert [tuple(m.shape[2:]) for m in shell(torch.rand(1, 3, 50, 70))] == [
        (13, 18), (7, 9), (4, 5), (2, 3)]
    assert {'backbone.position', 'backbone.class_token'} <= shell.no_weight_decay()


def test_an_exported_program_gives_equal_maps():
    shell = DenseBackbone(MLPMixer('small', image_size=32, patch_size=8, embed_dim=16, depth=1),
                          SimplePyramid((16,), 8, in_stride=8, strides=(4, 16)), window=32).eval()
    x = torch.rand(1, 3, 40, 64)
    program = torch.export.export(shell, (x,))
    torch.testing.assert_close(program.module()(x), shell(x))


def test_windows_of_odd_patches_are_refused():
    with pytest.raises(ValueError, match='powers of two'):
        DenseBackbone(Patches(14), window=28)
