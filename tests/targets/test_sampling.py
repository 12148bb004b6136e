import pytest
import torch

from openlab.targets.matching import BACKGROUND, IGNORED
from openlab.targets.sampling import BalancedSampler


def test_positives_have_at_most_their_share_and_negatives_fill_up():
    matched = torch.tensor([0] * 30 + [BACKGROUND] * 60 + [IGNORED] * 10)
    drawn = BalancedSampler(num=20, positive_fraction=0.25)(matched)
    assert (matched[drawn] >= 0).sum() == 5
    assert (matched[drawn] == BACKGROUND).sum() == 15
    assert torch.equal(drawn, drawn.unique())


def test_few_positives_leave_their_places_to_negatives():
    matched = torch.tensor([3, BACKGROUND, BACKGROUND, BACKGROUND, IGNORED, BACKGROUND])
    drawn = BalancedSampler(num=4, positive_fraction=0.5)(matched)
    assert 0 in drawn and len(drawn) == 4 and 4 not in drawn


def test_everything_is_drawn_where_there_is_little():
    matched = torch.tensor([BACKGROUND, 2, IGNORED, 0])
    assert BalancedSampler(num=100)(matched).tolist() == [0, 1, 3]
    assert BalancedSampler()(torch.tensor([IGNORED, IGNORED])).tolist() == []


def test_draws_differ_and_follow_the_seed():
    matched = torch.full((1000,), BACKGROUND)
    sampler = BalancedSampler(num=10)
    torch.manual_seed(0)
    first, second = sampler(matched), sampler(matched)
    torch.manual_seed(0)
    assert torch.equal(sampler(matched), first) and not torch.equal(first, second)


def test_impossible_shares_are_refused():
    with pytest.raises(ValueError, match=r'need num >= 1 .* got 0 and 0\.5'):
        BalancedSampler(num=0)
