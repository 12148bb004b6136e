"""Confusion matrix, feature maps, schedules and embeddings: the data in them, and the files."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from openlab.visualization.confusion import confusion_matrix, draw_confusion
from openlab.visualization.embedding import draw_embedding, embed
from openlab.visualization.features import draw_features, feature_maps
from openlab.visualization.schedules import draw_schedule


def read(file):
    return cv2.imread(str(file))[..., ::-1].astype(int)


def test_rows_of_the_matrix_are_the_truth():
    matrix = confusion_matrix([0, 0, 2], [0, 1, 2], 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_a_perfect_matrix_is_dark_on_its_diagonal_only(tmp_path):
    perfect = read(draw_confusion(np.eye(10, dtype=int) * 5, None, tmp_path / 'a.png'))
    mixed = read(draw_confusion(np.ones((10, 10), int), None, tmp_path / 'b.png'))
    dark = np.array([8, 48, 107])  # the end of the colour scale
    # Both pictures hold the scale itself; only one holds dark cells.
    assert ((abs(perfect - dark).max(-1) < 6).sum()
            > (abs(mixed - dark).max(-1) < 6).sum() + 5000)


def test_many_classes_are_drawn_without_numbers(tmp_path):
    names = [f'class {i}' for i in range(120)]
    assert draw_confusion(np.eye(120, dtype=int), names, tmp_path / 'a.png').exists()


def test_a_matrix_that_does_not_fit_its_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match='2 class names for a matrix of 3'):
        draw_confusion(np.eye(3), ['a', 'b'], tmp_path / 'a.png')
    with pytest.raises(ValueError, match='square'):
        draw_confusion(np.ones((2, 3)), None, tmp_path / 'a.png')


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x):
        return self.backbone(x)[-1].mean((2, 3))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 2, 2)
        self.second = nn.Conv2d(4, 9, 2, 2)

    def forward(self, x):
        one = self.first(x)
        return one, self.second(one)


def test_feature_maps_of_all_stages_come_from_one_run():
    maps = feature_maps(Net(), torch.rand(1, 3, 16, 16))
    assert {n: tuple(m.shape) for n, m in maps.items()} == {
        'backbone[0]': (1, 4, 8, 8), 'backbone[1]': (1, 9, 4, 4)}
    model = Net()
    image = torch.rand(1, 3, 16, 16)
    only = feature_maps(model, image, ['backbone.first'])
    assert torch.equal(only['backbone.first'], model.backbone.first(image))


def test_feature_maps_of_an_unknown_layer_name_near_ones():
    with pytest.raises(ValueError, match=r'did you mean backbone\.first'):
        feature_maps(Net(), torch.rand(1, 3, 16, 16), ['backbone.frist'])


def test_the_strongest_channels_are_drawn_in_rows():
    feats = torch.zeros(9, 4, 4)
    feats[5, :2] = 1  # the only channel that varies
    sheet = draw_features(np.zeros((16, 16, 3), np.uint8), {'a': feats}, channels=2, cell=64)
    yellow, violet = np.array([253, 231, 37]), np.array([68, 1, 84])
    assert (abs(sheet.astype(int) - yellow).max(-1) < 12).sum() > 1500
    assert (abs(sheet.astype(int) - violet).max(-1) < 12).sum() > 1500


def test_a_schedule_is_drawn_from_plain_numbers(tmp_path):
    values = [0.1 * i for i in range(10)] + [1.0 - 0.01 * i for i in range(90)]
    file = draw_schedule({'lr': values}, tmp_path / 's.png', iters_per_epoch=10)
    assert (abs(read(file) - [0x1f, 0x77, 0xe6]).max(-1) < 12).sum() > 500
    with pytest.raises(ValueError, match='at least one'):
        draw_schedule({'lr': []}, tmp_path / 's.png')


def test_an_embedding_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(12, 8)), rng.normal(size=(12, 8)) + 30])
    points = embed(features, perplexity=5)
    centres = points[:12].mean(0), points[12:].mean(0)
    spread = max(points[:12].std(0).max(), points[12:].std(0).max())
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    assert np.array_equal(points, embed(features, perplexity=5))


def test_an_embedding_refuses_what_cannot_be_placed():
    with pytest.raises(ValueError, match='at least 4'):
        embed(np.zeros((3, 8)))
    with pytest.raises(ValueError, match='NaN'):
        embed(np.full((8, 2), np.nan))


def test_an_embedding_is_drawn_in_the_colours_of_the_classes(tmp_path):
    points = np.random.default_rng(0).normal(size=(40, 2))
    picture = read(draw_embedding(points, [0, 1] * 20, ['a', 'b'], tmp_path / 'e.png'))
    for colour in ((31, 119, 230), (250, 130, 20)):
        assert (abs(picture - np.array(colour)).max(-1) < 12).sum() > 50
