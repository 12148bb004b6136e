import numpy as np
import pytest
import torch
from torch import nn

from openlab.visualization.cam import as_map, draw_cam, find_layer, grad_cam, patch_grid


class TinyCNN(nn.Module):
    """Class 0 counts red, class 1 counts green: so each class looks at its own colour."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1, bias=False)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2, bias=False)
        self.stem.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[..., None, None]
        self.head.weight.data = torch.eye(2)

    def forward(self, x):
        return self.head(self.pool(self.relu(self.stem(x))).flatten(1))


class TinyViT(nn.Module):
    """Patches of 4 pixels; a class token that looks at all of them is the only one read."""

    def __init__(self, num_prefix=1):
        super().__init__()
        self.embed = nn.Conv2d(3, 2, 4, 4, bias=False)
        self.before = nn.ReLU()
        self.mix = Mix(num_prefix)
        self.after = nn.Tanh()
        self.head = nn.Linear(2, 2, bias=False)
        self.num_prefix = num_prefix
        self.embed.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[..., None, None].expand(
            2, 3, 4, 4) / 16
        self.head.weight.data = torch.eye(2)

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches.new_zeros(len(x), self.num_prefix, 2), patches], 1)
        return self.head(self.after(self.mix(self.before(tokens)))[:, 0])


class Mix(nn.Module):
    def __init__(self, num_prefix):
        super().__init__()
        self.num_prefix = num_prefix

    def forward(self, tokens):
        mean = tokens[:, self.num_prefix:].mean(1, keepdim=True)
        return torch.cat([tokens[:, :1] + mean, tokens[:, 1:]], 1)


def two_spots(height=16, width=24):
    """Red at the top left, green at the bottom right."""
    image = torch.zeros(1, 3, height, width)
    image[0, 0, 0:4, 0:4] = 1
    image[0, 1, 12:16, 20:24] = 1
    return image


@pytest.mark.parametrize('model', [TinyCNN(), TinyViT(), TinyViT(num_prefix=5)],
                         ids=['cnn', 'vit', 'vit with registers'])
@pytest.mark.parametrize('target,spot', [(0, (2, 2)), (1, (14, 22))])
def test_the_map_peaks_where_the_class_gets_its_score_from(model, target, spot):
    cam = grad_cam(model, two_spots(), target)[0]
    assert cam.shape == (16, 24)
    assert cam[spot] > 0.7
    assert cam[14, 2] < 0.1  # nothing is there
    assert cam[tuple(reversed([(2, 2), (14, 22)]))[target]] < 0.1  # the other class
    peak = divmod(int(cam.argmax()), 24)
    assert abs(peak[0] - spot[0]) <= 2
    assert abs(peak[1] - spot[1]) <= 2


def test_without_a_target_the_predicted_class_is_explained_for_each_image():
    red, green = two_spots(), two_spots()
    red[0, 1] = 0
    green[0, 0] = 0
    cams = grad_cam(TinyCNN(), torch.cat([red, green]))
    assert cams[0, 2, 2] > 0.9
    assert cams[0, 14, 22] < 0.1
    assert cams[1, 14, 22] > 0.9


def test_a_named_layer_is_used_and_a_mistyped_one_gets_near_names():
    model = TinyCNN()
    assert torch.equal(grad_cam(model, two_spots(), 0, 'relu'),
                       grad_cam(model, two_spots(), 0, model.relu))
    with pytest.raises(ValueError, match=r"no layer 'rel'; did you mean relu"):
        find_layer(model, 'rel')


def test_a_layer_without_places_is_refused():
    with pytest.raises(ValueError, match='places'):
        grad_cam(TinyCNN(), two_spots(), 0, 'head')


def test_a_frozen_network_can_be_explained_and_is_left_as_it_was():
    model = TinyCNN().train().requires_grad_(False)
    assert grad_cam(model, two_spots(), 0)[0, 2, 2] > 0.9
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_other_outputs_need_a_score_function():
    class Detector(TinyCNN):
        def forward(self, x):
            return {'maps': self.relu(self.stem(x))}

    with pytest.raises(ValueError, match='score'):
        grad_cam(Detector(), two_spots(), 0)
    cam = grad_cam(Detector(), two_spots(), score=lambda out, _: out['maps'][:, 1].sum((1, 2)))
    assert cam[0, 14, 22] > 0.9


@pytest.mark.parametrize('tokens,size,grid', [
    (197, (224, 224), (14, 14)), (196, (224, 224), (14, 14)), (198, (224, 224), (14, 14)),
    (1 + 8 * 16, (128, 256), (8, 16)), (7, (224, 224), (2, 2)), (50, (64, 32), (10, 5)),
    (3, (64, 64), None)])
def test_patch_tokens_find_their_grid(tokens, size, grid):
    assert patch_grid(tokens, size) == grid


def test_tokens_go_back_to_the_places_of_their_patches():
    tokens = torch.arange(1 + 2 * 4).float()[None, :, None]
    assert as_map(tokens, (32, 64))[0, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_drawing_is_warm_where_the_map_is_high():
    cam = np.zeros((16, 16), np.float32)
    cam[:4, :4] = 1
    picture = draw_cam(np.full((16, 16, 3), 128, np.uint8), cam).astype(int)
    assert picture.shape == (224, 224, 3)
    warm, cold = picture[10, 10], picture[200, 200]
    assert warm[0] > warm[2] + 40
    assert cold[2] >= cold[0]


@pytest.mark.parametrize('backbone,layer', [
    ({'type': 'VisionTransformer', 'size': 'tiny', 'patch_size': 4, 'image_size': 16},
     'backbone.blocks.11.norm1'),
    ({'type': 'ResNet', 'block': 'basic', 'num_blocks': (1, 1), 'base_channels': 4,
      'stem': 'conv3', 'out_stages': (3,)}, 'backbone'),
])
def test_the_layer_is_the_last_one_whose_places_matter(backbone, layer):
    from openlab.config.build import build

    torch.manual_seed(0)
    model = build({'type': 'ImageClassifier', 'backbone': backbone,
                   'head': {'type': 'LinearHead', 'num_classes': 3}})
    image = torch.randn(1, 3, 16, 16)
    chosen = grad_cam(model, image, 1)
    assert chosen.std() > 0
    assert torch.allclose(chosen, grad_cam(model, image, 1, layer), atol=1e-6)
