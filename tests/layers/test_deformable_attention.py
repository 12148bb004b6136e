import math

import pytest
import torch

from openlab.layers.deformable_attention import (
    DeformableAttention,
    grid_places,
    multi_scale_deformable_attention,
)

SIZES = [(3, 4), (2, 2)]


def lookup(level, x, y):
    """Value (C,) of a map (h, w, C) between its pixels, zero outside: the formula, one point."""
    h, w, channels = level.shape
    x, y = x * w - 0.5, y * h - 0.5
    total = torch.zeros(channels)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < h and 0 <= column < w:
                total += level[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_it_equals_a_loop_over_points():
    generator = torch.Generator().manual_seed(0)
    B, Q, H, L, P, C = 2, 3, 2, 2, 2, 4
    values = torch.rand(B, 16, H, C, generator=generator)
    points = torch.rand(B, Q, H, L, P, 2, generator=generator) * 1.4 - 0.2  # some outside
    weights = torch.rand(B, Q, H, L, P, generator=generator)
    expected = torch.zeros(B, Q, H, C)
    for b in range(B):
        for q in range(Q):
            for head in range(H):
                for i, begin in enumerate((0, 12)):
                    h, w = SIZES[i]
                    level = values[b, begin:begin + h * w, head].view(h, w, C)
                    for p in range(P):
                        x, y = points[b, q, head, i, p].tolist()
                        expected[b, q, head] += weights[b, q, head, i, p] * lookup(level, x, y)
    actual = multi_scale_deformable_attention(values, SIZES, points, weights)
    torch.testing.assert_close(actual, expected.flatten(2))


def test_places_are_the_centres_of_pixels():
    places = grid_places([(2, 4), (1, 1)])
    assert places.tolist() == [[x, y] for y in (0.25, 0.75) for x in (0.125, 0.375, 0.625, 0.875)
                               ] + [[0.5, 0.5]]


def test_a_fresh_layer_looks_away_from_its_place_in_steps():
    layer = DeformableAttention(8, num_heads=4, num_levels=2, num_points=3)
    offsets = layer.offsets(torch.rand(1, 1, 8)).view(4, 2, 3, 2)
    ways = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for step in range(3):
        for level in range(2):
            torch.testing.assert_close(offsets[:, level, step], ways * (step + 1), atol=1e-5,
                                       rtol=0)


def test_a_query_reads_what_lies_around_it():
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, num_levels=2)
    values = torch.rand(1, 16, 8)
    places = grid_places(SIZES)
    out = layer(values, values, SIZES, places)
    assert out.shape == (1, 16, 8)
    assert layer(values, values, SIZES, places.flip(0)).allclose(out) is False


def test_heads_must_divide_the_embedding():
    with pytest.raises(ValueError, match='num_heads=3'):
        DeformableAttention(8, 3)
