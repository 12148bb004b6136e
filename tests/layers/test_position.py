import math

import pytest
import torch

from openlab.layers.position import resize_square_position, sine_position


def test_sine_position_has_the_value_of_the_formula():
    position = sine_position(torch.ones(1, 4, 3, dtype=torch.bool), 8)
    assert position.shape == (1, 8, 4, 3)
    y, x = 2 * math.pi * 2 / 4, 2 * math.pi * 3 / 3  # second row, third column
    slow = 10000 ** (2 / 4)
    expected = [f(angle / p) for angle in (y, x) for p in (1, slow) for f in (math.sin, math.cos)]
    assert position[0, :, 1, 2].tolist() == pytest.approx(expected, abs=1e-5)


def test_padding_does_not_move_the_positions_of_an_image():
    valid = torch.zeros(1, 6, 6, dtype=torch.bool)
    valid[:, :4, :3] = True
    alone = sine_position(torch.ones(1, 4, 3, dtype=torch.bool), 16)
    torch.testing.assert_close(sine_position(valid, 16)[:, :, :4, :3], alone)
    assert sine_position(valid, 16).isfinite().all()


def test_an_embedding_that_four_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='not 6'):
        sine_position(torch.ones(1, 2, 2, dtype=torch.bool), 6)


def test_positions_of_a_square_grid_are_interpolated_for_another():
    grid = torch.arange(4.0)[None, :, None].expand(1, 4, 2)  # 2 x 2, from 0 to 3
    resized = resize_square_position(torch.cat([torch.full((1, 1, 2), 9.0), grid], 1), (4, 4), 1)
    assert resized.shape == (1, 17, 2)
    assert (resized[:, 0] == 9).all()
    rows = resized[0, 1:, 0].reshape(4, 4)
    assert (rows.diff(dim=0) > 0).all() and (rows.diff(dim=1) > 0).all()
    assert rows.mean().item() == pytest.approx(1.5)


def test_positions_that_fit_or_are_no_square_stay_as_they_are():
    for count, grid in ((6, (2, 3)), (7, (2, 2)), (4, (1, 4))):
        position = torch.randn(1, count, 2)
        assert resize_square_position(position, grid) is position
