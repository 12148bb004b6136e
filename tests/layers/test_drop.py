import pytest
import torch

from openlab.layers.drop import DropPath, drop_path_probs


def test_drop_path_zeroes_whole_samples_and_scales_up_the_rest():
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(2000, 3, 2))
    kept = out[:, 0, 0] > 0
    assert torch.equal(out, kept[:, None, None].expand_as(out) / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.04)


def test_drop_path_does_nothing_in_evaluation():
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x


def test_probabilities_rise_linearly_from_zero():
    assert drop_path_probs(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_probs(0.3, 1) == [0]


def test_a_probability_of_one_is_refused():
    with pytest.raises(ValueError, match='0 <= prob < 1, not 1'):
        DropPath(1)
